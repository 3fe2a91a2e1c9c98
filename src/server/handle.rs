//! Asks a server from within its own process.

use tokio::sync::mpsc;

use crate::model::rollout::RolloutEvent;
use crate::runtime::driver::Input;

/// Asks a server for the same things that signals and the control socket ask for. Cheap to clone.
///
/// What comes of it is told by the [event stream](crate::Server::events). All calls are cancel safe, and do nothing once
/// the server is gone.
#[derive(Debug, Clone)]
pub struct Handle(mpsc::Sender<Input>);

impl Handle {
    pub(crate) fn new(inputs: mpsc::Sender<Input>) -> Handle {
        Handle(inputs)
    }

    /// Starts the next generation, as SIGHUP does.
    pub async fn reload(&self) {
        self.ask(RolloutEvent::ReloadRequested).await;
    }

    /// Jumps ahead in a rollout: from the canary to all, from the soak to the point of no return.
    pub async fn promote(&self) {
        self.ask(RolloutEvent::PromoteRequested).await;
    }

    /// Gives the rollout up that is under way: everything comes back to this generation.
    pub async fn rollback(&self) {
        self.ask(RolloutEvent::RollbackRequested).await;
    }

    /// Stops gracefully, as SIGTERM does; a second call stops at once.
    pub async fn stop(&self) {
        self.ask(RolloutEvent::StopRequested).await;
    }

    async fn ask(&self, event: RolloutEvent) {
        // Nobody is there any more to be asked.
        let _ = self.0.send(Input::Rollout(event)).await;
    }
}
