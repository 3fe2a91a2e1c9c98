//! Asks the driver from time to time to look whether somebody else has joined a group.

use std::time::Duration;

use tokio::sync::mpsc;

use super::driver::Input;

/// There is no event for it; a stranger gets no connection before a rollout needs the slots, so it is not urgent.
const LOOK: Duration = Duration::from_secs(5);

/// Asks until the driver is gone.
pub(crate) fn start(inputs: mpsc::Sender<Input>) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK).await;
            if inputs.send(Input::LookForStrangers).await.is_err() {
                return;
            }
        }
    });
}
