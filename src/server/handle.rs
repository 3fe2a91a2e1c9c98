//! Requests to a server from within its own process.

use tokio::sync::mpsc;

use crate::model::rollout::RolloutEvent;
use crate::runtime::input::Input;

/// Sends a server the same requests as signals and the control socket. Cheap to clone.
///
/// The [event stream](crate::Server::events) reports the outcome of a request. All calls are cancel safe, and do
/// nothing once the server is gone.
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

    /// Skips ahead in a rollout: from the canary to the cut-over of all new connections, from the soak to the point of
    /// no return.
    pub async fn promote(&self) {
        self.ask(RolloutEvent::PromoteRequested).await;
    }

    /// Gives up the rollout that is under way: all new connections return to this generation.
    pub async fn rollback(&self) {
        self.ask(RolloutEvent::RollbackRequested).await;
    }

    /// Stops gracefully, as SIGTERM does; a second call stops at once.
    pub async fn stop(&self) {
        self.ask(RolloutEvent::StopRequested).await;
    }

    async fn ask(&self, event: RolloutEvent) {
        // An error means that the server is gone: the request is dropped, as documented.
        let _ = self.0.send(Input::Rollout(event)).await;
    }
}
