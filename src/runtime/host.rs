//! What the machines of a server that restarts itself, of a supervised program and of its launch do differently.

use std::future::ready;
use std::pin::Pin;
use std::time::Duration;

use super::context::Context;
use super::groups::Holders;
use super::input::Input;
use super::offload::{Lane, Stalled};
use super::probe::Probe;
use super::status::{Depth, Draft};
use crate::model::event::{Outcome, Phase};
use crate::model::handover::GroupOrder;
use crate::model::identity::Generation;
use crate::model::rollout::{DrainScope, Failure, Rollout, RolloutEvent};

/// Performs the effects of one generation's machine, as far as they differ: see [`Effect`](crate::model::rollout::Effect)
/// for what each has to do, and [`perform`](super::effects::perform) for what all hosts do alike.
///
/// No function waits. Work that takes time goes on in the background, and its result comes as an event.
pub(crate) trait Host: Send {
    /// The inputs of this kind of host only.
    type HostEvent: Send;

    fn context(&self) -> &Context;
    fn context_mut(&mut self) -> &mut Context;

    /// Takes one input of this kind of host, and returns the event of the machine that it represents, if any.
    fn take(&mut self, host_event: Self::HostEvent, rollout: &Rollout) -> Option<RolloutEvent>;
    /// Called at each heartbeat and after each change of the phase: the driver is alive.
    fn heartbeat(&mut self, rollout: &Rollout);
    /// The status: the generations that live, and their states.
    fn status(&mut self, rollout: &Rollout, depth: Depth) -> Draft;
    fn log_status(&mut self, phase: Phase);
    /// Looks for foreign listeners in our groups. Called only while no rollout is under way.
    fn look_for_strangers(&mut self);
    /// Takes the inputs that came when the machine had ended, in their order.
    fn hand_on(&mut self, _inputs: Vec<Input>) {}
    /// Closes the host, at the end of this generation.
    fn close(&mut self) -> impl Future<Output = ()> + Send;

    /// Tells the service manager that a rollout begins.
    fn tell_reloading(&mut self);
    /// Tells the service manager that this generation serves, and that no rollout is under way (any more).
    fn tell_ready(&mut self);
    /// Adds a reload that has ended to the history of the instance.
    fn record(&mut self, outcome: Outcome);

    /// Whether a rollout may begin: the work that may wait for a disk or for the application.
    fn preflight(&self) -> impl Future<Output = Result<(), Failure>> + Send + 'static;
    /// Waits until this generation knows its listeners.
    fn before_gate(&self) -> impl Future<Output = Result<(), Stalled>> + Send + 'static;
    fn spawn(&self, green: Generation);
    /// How green is looked at; `None` if green is gone.
    fn look(&self, green: Generation) -> Option<Look>;
    /// How green is probed; `None` if no probe is configured.
    fn probe(&self) -> Option<Probe>;
    /// Takes in the listeners of either generation that have come or gone.
    fn follow(&self, _green: Generation) -> impl Future<Output = Result<(), Stalled>> + Send + 'static {
        ready(Ok(()))
    }
    /// Ends the repetition of [`Host::follow`], if there is one.
    fn end_following(&mut self) {}

    /// Kills green, after the operations on the groups that were begun before.
    fn kill(&self, green: Generation);
    /// Sends green away, after the operations on the groups that were begun before.
    fn release(&mut self, green: Generation);
    /// Forgets green: its rollout was rolled back.
    fn forget_green(&mut self);

    fn hand_over(&mut self, green: Generation, took: Duration);
    /// This generation has become the live one.
    fn become_live(&mut self) {}
    /// The first generation could not be launched.
    fn launch_failed(&mut self, _reason: Failure) {}
    /// The live generation that followed this one has ended.
    fn green_lost(&self, _green: Generation, _how: &str) {}

    fn retire(&mut self);
    fn stop_accepting(&mut self);
    fn await_connections(&mut self, whose: DrainScope);
    /// Closes the connections on which nothing is under way, where they are this process's own.
    fn close_idle(&self) {}
    fn force_close(&self);
    fn force_close_predecessors(&mut self);
}

/// A look at green.
pub(crate) struct Look {
    /// The order in which green's listeners have joined; `None` if green does not tell where it listens.
    pub(crate) told: Pin<Box<dyn Future<Output = Option<Vec<GroupOrder>>> + Send>>,
    /// Finds the sockets of green's processes; `None` if they may not be looked at. Blocks.
    pub(crate) holders: Box<dyn Fn() -> Option<Holders> + Send + Sync>,
    /// The lane of the look.
    pub(crate) lane: Lane,
}
