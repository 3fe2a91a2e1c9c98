//! Signals of the supervisor: to the machine of the live generation, or on to the program.

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

/// From now on none of them ends this process.
///
/// # Errors
/// What sigaction(2) says.
pub(super) fn handle() -> io::Result<Signals> {
    Signals::new([SIGHUP, SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH])
        .map_err(|e| during("handle signals", e))
}

/// Reaps whatever ends, from now on.
///
/// # Errors
/// What sigaction(2) says.
pub(super) fn reap(reaper: Reaper) -> io::Result<()> {
    let mut signals = Signals::new([SIGCHLD]).map_err(|e| during("handle SIGCHLD", e))?;
    tokio::spawn(async move {
        // What had ended before the handler was there sends none.
        reaper.reap();
        while signals.next().await.is_some() {
            reaper.reap();
        }
    });
    Ok(())
}

/// Passes on each signal that comes, until nobody wants them.
pub(super) async fn pass_on(mut signals: Signals, instance: Arc<Instance>) {
    while let Some(signal) = signals.next().await {
        match signal {
            SIGHUP => instance.ask(RolloutEvent::ReloadRequested).await,
            SIGTERM => instance.stop(None).await,
            SIGINT => instance.stop(Some(Signal::INT)).await,
            SIGQUIT => instance.stop(Some(Signal::QUIT)).await,
            other => {
                if let (Some(live), Some(signal)) = (instance.live(), Signal::from_named_raw(other)) {
                    live.child.signal(signal);
                }
            }
        }
    }
}
