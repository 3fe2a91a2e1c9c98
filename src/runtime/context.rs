//! The state that every host needs.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::AbortHandle;

use super::groups::Groups;
use super::input::Input;
use super::offload::Lane;
use crate::model::event::Event;
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::RolloutEvent;

/// The state of one generation, as far as it is the same for every host.
pub(crate) struct Context {
    pub(crate) generation: Generation,
    pub(crate) pid: Pid,
    pub(crate) groups: Groups,
    /// Whether a rollout of this generation needs steering: see `Plan::needs_steering`.
    pub(crate) needs_steering: bool,
    /// The lane for the work of a rollout that may wait for a disk or for the application: its preflight and its exec.
    pub(crate) attempts: Lane,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) events: broadcast::Sender<Event>,
    /// The failure of the last rollout, if it was rolled back.
    pub(crate) failed: Option<String>,
    /// Becomes true when the listeners are to be closed without waiting any longer.
    pub(crate) close_now: watch::Sender<bool>,
    /// Becomes true when the next generation has taken the leadership.
    pub(crate) passed_on: watch::Sender<bool>,
    /// The task that waits for the preflight of a rollout.
    pub(super) checking: Option<AbortHandle>,
    /// The task that probes green.
    pub(super) probing: Option<AbortHandle>,
}

/// The arguments of [`Context::new`].
pub(crate) struct Parts {
    pub(crate) generation: Generation,
    pub(crate) pid: Pid,
    pub(crate) groups: Groups,
    pub(crate) needs_steering: bool,
    pub(crate) attempts: Lane,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) passed_on: watch::Sender<bool>,
}

impl Context {
    pub(crate) fn new(parts: Parts) -> Context {
        let Parts { generation, pid, groups, needs_steering, attempts, inputs, events, passed_on } = parts;
        Context {
            generation,
            pid,
            groups,
            needs_steering,
            attempts,
            inputs,
            events,
            failed: None,
            close_now: watch::Sender::new(false),
            passed_on,
            checking: None,
            probing: None,
        }
    }

    /// The generation and the process that this machine belongs to.
    pub(crate) fn who(&self) -> (Generation, Pid) {
        (self.generation, self.pid)
    }

    /// Sends the event to all subscribers. An error means that there are none, and is ignored.
    pub(crate) fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// Gives the machine an event.
    pub(crate) fn send(&self, event: RolloutEvent) {
        let inputs = self.inputs.clone();
        // Not awaited here: the caller is the driver, which alone can make room in the queue.
        tokio::spawn(async move { inputs.send(Input::Rollout(event)).await });
    }

    /// Performs `work` in the background. Its result goes to the machine as an event.
    pub(crate) fn in_background(&self, work: impl Future<Output = RolloutEvent> + Send + 'static) -> AbortHandle {
        let inputs = self.inputs.clone();
        let task = tokio::spawn(async move {
            let event = work.await;
            // If the driver is gone, the result is not needed.
            let _ = inputs.send(Input::Rollout(event)).await;
        });
        task.abort_handle()
    }

    /// Ends the probes of green.
    pub(crate) fn end_probing(&mut self) {
        if let Some(probing) = self.probing.take() {
            probing.abort();
        }
    }

    /// Ends the preflight, whose result is no longer waited for.
    pub(super) fn end_checking(&mut self) {
        if let Some(checking) = self.checking.take() {
            checking.abort();
        }
    }
}

/// The time, in seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
