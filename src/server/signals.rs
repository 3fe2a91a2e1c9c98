//! Converts signals to events of the driver.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook_tokio::Signals;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;

use crate::model::rollout::RolloutEvent;
use crate::runtime::input::Input;
use crate::sys::{during, spawn};

/// Remembers a SIGHUP that arrives before the server can handle it.
#[derive(Debug)]
pub(crate) struct EarlyHup(Arc<AtomicBool>);

impl EarlyHup {
    /// From now on a SIGHUP does not kill this process. Also unblocks SIGHUP, which the previous generation has
    /// blocked, so that a pending SIGHUP is delivered.
    ///
    /// # Errors
    /// What sigaction(2) says.
    pub(crate) fn remember() -> io::Result<EarlyHup> {
        let came = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGHUP, came.clone()).map_err(|e| during("handle SIGHUP", e))?;
        spawn::unblock_hup().map_err(|e| during("unblock SIGHUP", e))?;
        Ok(EarlyHup(came))
    }
}

/// Starts to handle signals.
///
/// # Errors
/// What sigaction(2) says.
pub(crate) fn start(early: &EarlyHup, inputs: mpsc::Sender<Input>) -> io::Result<()> {
    let mut signals =
        Signals::new([SIGHUP, SIGTERM, SIGINT, SIGUSR1, SIGUSR2]).map_err(|e| during("handle signals", e))?;
    let early = early.0.swap(false, Ordering::Relaxed);
    tokio::spawn(async move {
        if early && inputs.send(Input::Rollout(RolloutEvent::ReloadRequested)).await.is_err() {
            return;
        }
        while let Some(signal) = signals.next().await {
            let input = match signal {
                SIGHUP => Input::Rollout(RolloutEvent::ReloadRequested),
                SIGTERM | SIGINT => Input::Rollout(RolloutEvent::StopRequested),
                SIGUSR2 => Input::Rollout(RolloutEvent::ForceCloseRequested),
                _ => Input::LogStatus,
            };
            if inputs.send(input).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
