//! The signals of the supervisor, which go to the machine of the live generation, or are passed on to the program.

use std::io;
use std::sync::Arc;

use rustix::process::Signal;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook_tokio::Signals;
use tokio_stream::StreamExt as _;

use super::instance::Instance;
use crate::model::rollout::RolloutEvent;
use crate::sys::during;
use crate::sys::reaper::Reaper;

/// Handles these signals: from now on none of them ends this process.
///
/// # Errors
/// What sigaction(2) says.
pub(super) fn handle() -> io::Result<Signals> {
    Signals::new([SIGHUP, SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH])
        .map_err(|e| during("handle signals", e))
}

/// From now on reaps every child that ends.
///
/// # Errors
/// What sigaction(2) says.
pub(super) fn reap(reaper: Reaper) -> io::Result<()> {
    let mut signals = Signals::new([SIGCHLD]).map_err(|e| during("handle SIGCHLD", e))?;
    tokio::spawn(async move {
        // A child that had ended before the handler was installed sends no SIGCHLD any more.
        reaper.reap();
        while signals.next().await.is_some() {
            reaper.reap();
        }
    });
    Ok(())
}

/// Passes on each signal until the stream of signals ends.
pub(super) async fn pass_on(mut signals: Signals, instance: Arc<Instance>) {
    while let Some(signal) = signals.next().await {
        match signal {
            SIGHUP => instance.ask(RolloutEvent::ReloadRequested).await,
            SIGTERM => instance.stop(None).await,
            SIGINT => instance.stop(Some(Signal::INT)).await,
            SIGQUIT => instance.stop(Some(Signal::QUIT)).await,
            other => {
                if let Some(signal) = Signal::from_named_raw(other) {
                    instance.signal(signal);
                }
            }
        }
    }
}
