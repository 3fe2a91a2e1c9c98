//! The host of a supervised program: performs the effects of one generation's machine on other processes.

mod drain;
mod forward;
pub(super) mod generation;
mod status;
mod succession;

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::AbortHandle;

use super::child::{Child, SpawnedChild};
use super::instance::{Instance, events};
use crate::model::event::{Event, Phase};
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::{Effect, Rollout, RolloutEvent};
use crate::runtime::control::{Counts, LiveEndpoint, looks};
use crate::runtime::driver::{Host, Input};
use crate::runtime::groups::lock;
use crate::runtime::offload::Lane;
use crate::runtime::status::{Depth, Draft};

/// The events that only a supervised generation receives.
#[derive(Debug)]
pub(super) enum HostEvent {
    /// The process of the next generation was spawned, or could not be spawned.
    Spawned { green: Generation, result: Result<Box<SpawnedChild>, String> },
}

/// The state that the effects need.
pub(super) struct SupervisedHost {
    pub(super) instance: Arc<Instance>,
    pub(super) child: Arc<Child>,
    green: Option<Arc<Child>>,
    /// The task of `follow`, which looks for listeners of either generation that have come or gone.
    following: Option<AbortHandle>,
    checking: Option<AbortHandle>,
    probing: Option<AbortHandle>,
    inputs: mpsc::Sender<Input>,
    host_events: mpsc::Sender<HostEvent>,
    events: broadcast::Sender<Event>,
    /// The failure of the last rollout, if it was rolled back.
    failed: Option<String>,
    close_now: watch::Sender<bool>,
    looks: Lane,
    looks_for_strangers: Lane,
    /// Becomes true when the next generation has the leadership.
    passed_on: watch::Sender<bool>,
    gone: watch::Sender<bool>,
}

impl SupervisedHost {
    pub(super) fn new(
        instance: Arc<Instance>,
        child: Arc<Child>,
        inputs: mpsc::Sender<Input>,
        host_events: mpsc::Sender<HostEvent>,
    ) -> SupervisedHost {
        let (end, to) = (child.end(), inputs.clone());
        tokio::spawn(async move {
            if end.await.is_some() {
                // An error means that the machine is gone, and needs no event.
                let _ = to.send(Input::Rollout(RolloutEvent::Died)).await;
            }
        });
        SupervisedHost {
            instance,
            child,
            green: None,
            following: None,
            checking: None,
            probing: None,
            inputs,
            host_events,
            events: events(),
            failed: None,
            close_now: watch::Sender::new(false),
            looks: looks(),
            looks_for_strangers: Lane::new(1),
            passed_on: watch::Sender::new(false),
            gone: watch::Sender::new(false),
        }
    }

    /// The endpoint by which the control socket reaches this generation.
    pub(super) fn endpoint(&self) -> LiveEndpoint {
        LiveEndpoint {
            inputs: self.inputs.clone(),
            events: self.events.clone(),
            counts: Counts::Watched(self.child.open().clone()),
            passed_on: self.passed_on.subscribe(),
            looks: self.looks.clone(),
        }
    }

    /// Becomes true when no process of this generation is left.
    pub(super) fn gone(&self) -> watch::Receiver<bool> {
        self.gone.subscribe()
    }

    fn generation(&self) -> Generation {
        self.child.generation
    }

    fn green(&self, generation: Generation) -> Option<Arc<Child>> {
        self.green.clone().filter(|green| green.generation == generation)
    }
}

impl Host for SupervisedHost {
    type HostEvent = HostEvent;

    fn who(&self) -> (Generation, Pid) {
        (self.child.generation, self.child.pid)
    }

    fn take(&mut self, host_event: HostEvent, rollout: &Rollout) -> Option<RolloutEvent> {
        let HostEvent::Spawned { green, result } = host_event;
        // Its notifications are read only from here on, so that none of them precedes the event of the spawn.
        let result = result.map(|spawned| self.adopt(*spawned, rollout));
        Some(RolloutEvent::Spawned { green, result })
    }

    /// An error means that there are no subscribers, and is ignored.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    fn heartbeat(&mut self, rollout: &Rollout) {
        self.tell_manager(rollout);
    }

    fn status(&mut self, rollout: &Rollout, depth: Depth) -> Draft {
        self.draft(rollout, depth)
    }

    /// Does nothing: the signal that asks for the status is passed on to the program.
    fn log_status(&mut self, _: Phase) {}

    /// Updates the known listeners as well, because the program's own processes come and go: each listener gets its
    /// share while no rollout moves connections.
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    fn look_for_strangers(&mut self) {
        let (instance, child) = (self.instance.clone(), self.child.clone());
        self.looks_for_strangers.try_detach(move || {
            let holders = child.holders();
            let mut groups = lock(&instance.groups);
            if !instance.is_live(child.generation) {
                return;
            }
            groups.see(holders.as_ref());
            groups.name_strangers();
            groups.rest();
        });
    }

    async fn close(&mut self) {
        self.end().await;
    }

    fn inputs(&self) -> &mpsc::Sender<Input> {
        &self.inputs
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Preflight { green } => self.preflight(green),
            Effect::Gate { green } => self.gate(green),
            Effect::Spawn { green } => self.spawn(green),
            Effect::Verify { green } => self.verify(green),
            Effect::Probe { green, after } => self.probe(green, after),
            Effect::Share { green, share } => self.share(green, share),
            Effect::CutOver { green, turn } => self.cut_over(green, turn),
            Effect::SteerBack => {
                self.end_probing();
                self.end_following();
                lock(&self.instance.groups).steer_back();
            }
            Effect::Kill { green } => self.kill(green),
            Effect::Release { green } => self.release(green),
            Effect::HandOver { green, took } => self.hand_over(green, took),
            Effect::Retire => self.retire(),
            Effect::StopAccepting => self.stop_accepting(),
            Effect::CloseNow => {
                self.close_now.send_replace(true);
            }
            Effect::AwaitConnections(whose) => self.await_connections(whose),
            Effect::ForceClose => self.force_close(),
            Effect::ForceClosePredecessors => self.instance.force_close_draining(),
            Effect::Report { outcome, serves_on } => self.report(outcome, serves_on),
            // The driver reports these.
            Effect::Canary { .. } | Effect::Soak { .. } | Effect::Refuse { .. } => {}
            // Idle connections are the program's own business; the program is not told that it is live; the machine of
            // a generation itself notices that the generation has died.
            Effect::CloseIdle | Effect::BecomeLive | Effect::GreenLost { .. } | Effect::Finish => {}
        }
    }
}
