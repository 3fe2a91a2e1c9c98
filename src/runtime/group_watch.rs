//! Asks the driver from time to time to look whether foreign listeners have joined a group.

use std::time::Duration;

use tokio::sync::mpsc;

use super::input::Input;

/// Interval between two looks. There is no event for a listener that joins. A foreign listener only matters when a
/// rollout needs the slots, so the look is not urgent.
const LOOK: Duration = Duration::from_secs(5);

/// Asks the driver until it is gone.
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
