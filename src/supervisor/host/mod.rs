//! The host of a supervised program: performs the effects of one generation's machine on other processes.

mod drain;
mod forward;
pub(super) mod generation;
mod listeners;
mod status;
mod succession;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use self::listeners::{follow, see};
use super::child::Child;
use super::instance::{Instance, events};
use super::next_generation::{NextGeneration, Spawned};
use super::{preflight, retire};
use crate::model::event::{Outcome, Phase};
use crate::model::identity::Generation;
use crate::model::rollout::{DrainScope, Failure, Rollout, RolloutEvent};
use crate::runtime::context::{Context, Parts, now};
use crate::runtime::control::{Counts, LiveEndpoint, looks};
use crate::runtime::groups::Table;
use crate::runtime::host::{Host, Look};
use crate::runtime::input::Input;
use crate::runtime::offload::{self, Lane, Stalled};
use crate::runtime::probe::Probe;
use crate::runtime::service_manager::ServiceManager;
use crate::runtime::status::{Depth, Draft};

/// The state that the effects need.
pub(super) struct SupervisedHost {
    context: Context,
    pub(super) instance: Arc<Instance>,
    pub(super) child: Arc<Child>,
    next: NextGeneration,
    /// The task of `follow`, which looks for listeners of either generation that have come or gone.
    following: Option<AbortHandle>,
    looks: Lane,
    looks_for_strangers: Lane,
    gone: watch::Sender<bool>,
}

impl SupervisedHost {
    pub(super) fn new(
        instance: Arc<Instance>,
        child: Arc<Child>,
        inputs: mpsc::Sender<Input>,
        spawned: mpsc::Sender<Spawned>,
    ) -> SupervisedHost {
        let (end, to) = (child.end(), inputs.clone());
        tokio::spawn(async move {
            if end.await.is_some() {
                // An error means that the machine is gone, and needs no event.
                let _ = to.send(Input::Rollout(RolloutEvent::Died)).await;
            }
        });
        let next = NextGeneration::new(instance.clone(), inputs.clone(), spawned);
        let context = Context::new(Parts {
            generation: child.generation,
            pid: child.pid,
            groups: instance.groups.clone(),
            needs_steering: instance.settings.plan.needs_steering(),
            attempts: instance.attempts.clone(),
            inputs,
            events: events(),
            passed_on: watch::Sender::new(false),
        });
        SupervisedHost {
            context,
            instance,
            child,
            next,
            following: None,
            looks: looks(),
            looks_for_strangers: Lane::new(1),
            gone: watch::Sender::new(false),
        }
    }

    /// The endpoint by which the control socket reaches this generation.
    pub(super) fn endpoint(&self) -> LiveEndpoint {
        LiveEndpoint {
            inputs: self.context.inputs.clone(),
            events: self.context.events.clone(),
            counts: Counts::Watched(self.child.open().clone()),
            passed_on: self.context.passed_on.subscribe(),
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
}

/// Idle connections are the program's own business; the program is not told that it is live; the machine of a generation
/// itself notices that the generation has died. So the effects for these do nothing here.
impl Host for SupervisedHost {
    type HostEvent = Spawned;

    fn context(&self) -> &Context {
        &self.context
    }

    fn context_mut(&mut self) -> &mut Context {
        &mut self.context
    }

    fn take(&mut self, spawned: Spawned, rollout: &Rollout) -> Option<RolloutEvent> {
        let Spawned { green, result } = spawned;
        // Its notifications are read only from here on, so that none of them precedes the event of the spawn.
        let result = result.map(|spawned| self.next.take(*spawned, rollout));
        if self.next.of(green).is_some() {
            self.begin_to_follow(green);
        }
        Some(RolloutEvent::Spawned {
            green,
            result: result.map_err(|error| Failure::Step(format!("cannot be spawned: {error}"))),
        })
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
            let (holders, groups) = (child.holders(), instance.groups.clone());
            groups.post(move |table| {
                if instance.is_live(child.generation) {
                    table.see(holders.as_ref());
                    table.name_strangers();
                    table.rest();
                }
            });
        });
    }

    async fn close(&mut self) {
        self.end().await;
    }

    fn tell_reloading(&mut self) {
        self.instance.service_manager().reloading();
    }

    fn tell_ready(&mut self) {
        self.with_service_status(ServiceManager::ready);
    }

    fn record(&mut self, outcome: Outcome) {
        self.instance.history().add(outcome, now());
    }

    fn preflight(&self) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        let (instance, child) = (self.instance.clone(), self.child.clone());
        async move { preflight::pass(&instance, child).await.map_err(|error| Failure::step(&error)) }
    }

    fn before_gate(&self) -> impl Future<Output = Result<(), Stalled>> + Send + 'static {
        let (instance, child) = (self.instance.clone(), self.child.clone());
        async move { see(&instance, child).await }
    }

    fn spawn(&self, green: Generation) {
        self.next.spawn(green);
    }

    fn look(&self, green: Generation) -> Option<Look> {
        self.next.look(green)
    }

    fn probe(&self) -> Option<Probe> {
        self.instance.probe()
    }

    fn follow(&self, green: Generation) -> impl Future<Output = Result<(), Stalled>> + Send + 'static {
        follow(self.instance.clone(), green, self.child.clone(), self.next.of(green).cloned())
    }

    fn end_following(&mut self) {
        if let Some(following) = self.following.take() {
            following.abort();
        }
    }

    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    fn kill(&self, green: Generation) {
        if let Some(child) = self.next.of(green).cloned() {
            self.context.groups.post(|_| offload::detach(move || child.kill()));
        }
    }

    fn release(&mut self, green: Generation) {
        self.send_away(green);
    }

    fn forget_green(&mut self) {
        self.context.groups.post(Table::rest);
        self.next.forget();
    }

    fn hand_over(&mut self, green: Generation, took: Duration) {
        self.pass_on(green, took);
    }

    /// Ends this generation while another generation listens.
    fn retire(&mut self) {
        let (instance, child, at_once) =
            (self.instance.clone(), self.child.clone(), self.context.close_now.subscribe());
        self.context.in_background(async move {
            retire::retire(&instance, child, at_once).await;
            RolloutEvent::ListenersClosed
        });
    }

    /// Ends this generation without a successor that listens.
    fn stop_accepting(&mut self) {
        if self.instance.is_live(self.generation()) {
            self.instance.service_manager().stopping();
        }
        retire::tell(&self.child, self.instance.stop_signal());
        self.context.groups.post(Table::stand_down);
        self.context.send(RolloutEvent::ListenersClosed);
    }

    fn await_connections(&mut self, whose: DrainScope) {
        self.drain(whose);
    }

    fn force_close(&self) {
        self.child.clone().kill_in_background();
    }

    fn force_close_predecessors(&mut self) {
        self.instance.force_close_draining();
    }
}
