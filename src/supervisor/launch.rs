//! The launch: the rollout of the first generation, with no generation before it.

use std::collections::BTreeMap;
use std::future::ready;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::child::{Child, KILL_MAX};
use super::host::generation;
use super::instance::{Instance, events};
use super::next_generation::{NextGeneration, Spawned};
use super::{readiness, retire};
use crate::error::{Error, ErrorKind};
use crate::model::event::{Outcome, Phase};
use crate::model::handover::History;
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::{DrainScope, Failure, Rollout, RolloutEvent};
use crate::runtime::context::{Context, Parts};
use crate::runtime::driver::Driver;
use crate::runtime::groups::{Groups, Steering, Table};
use crate::runtime::host::{Host, Look};
use crate::runtime::input::{Input, QUEUE};
use crate::runtime::offload::Stalled;
use crate::runtime::probe::Probe;
use crate::runtime::status::{Depth, Draft, Known};

/// How the launch has ended.
pub(super) enum Launched {
    /// The first generation is live.
    Live,
    /// The generation was told to stop, or has ended by itself. Contains the exit code.
    Over(u8),
}

/// Starts the first generation, and waits until it is live.
///
/// # Errors
/// If the program cannot be started, or did not become ready: nothing runs then.
pub(super) async fn launch(instance: &Arc<Instance>) -> Result<Launched, Error> {
    let (inputs, received) = mpsc::channel(QUEUE);
    let (spawned, arriving) = mpsc::channel(QUEUE);
    let (reply, launched) = oneshot::channel();
    let pid = Pid::new(std::process::id());
    let rollout = Rollout::launching(pid, instance.settings.plan.clone());
    let context = Context::new(Parts {
        generation: Generation::NONE,
        pid,
        // There is no generation from which connections could be moved.
        groups: Groups::new(Table::watching(&[], Steering::Off)),
        needs_steering: false,
        attempts: instance.attempts.clone(),
        inputs: inputs.clone(),
        events: events(),
        passed_on: watch::Sender::new(false),
    });
    let host = LaunchHost {
        next: NextGeneration::new(instance.clone(), inputs.clone(), spawned),
        context,
        instance: instance.clone(),
        child: None,
        not_spawned: None,
        failure: None,
        killed: AtomicBool::new(false),
        elsewhere: Arc::default(),
        reply: Some(reply),
    };
    instance.set_launching(inputs.clone(), None);
    let _ = inputs.send(Input::Rollout(RolloutEvent::ReloadRequested)).await;
    tokio::spawn(Driver { rollout, host, inputs: received, host_events: arriving }.run());
    launched.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::NotReady, "the launch has panicked")))
}

/// The host of the launch.
struct LaunchHost {
    context: Context,
    instance: Arc<Instance>,
    next: NextGeneration,
    /// The first generation, once it was spawned.
    child: Option<Arc<Child>>,
    /// Why the program could not be spawned.
    not_spawned: Option<io::Error>,
    /// Why the launch has failed.
    failure: Option<Failure>,
    /// Whether the machine has had the generation killed.
    killed: AtomicBool,
    /// Where the generation listens instead of its addresses, seen before it was killed.
    elsewhere: Arc<Mutex<String>>,
    /// `None` once the result was told.
    reply: Option<oneshot::Sender<Result<Launched, Error>>>,
}

/// Nobody asks for the status before the first generation is live, the service manager hears of nothing before READY=1,
/// and there are no connections that could be moved: so many functions do nothing here.
impl Host for LaunchHost {
    type HostEvent = Spawned;

    fn context(&self) -> &Context {
        &self.context
    }

    fn context_mut(&mut self) -> &mut Context {
        &mut self.context
    }

    fn take(&mut self, spawned: Spawned, rollout: &Rollout) -> Option<RolloutEvent> {
        let Spawned { green, result } = spawned;
        let result = match result {
            Ok(spawned) => Ok(self.next.take(*spawned, rollout)),
            Err(error) => {
                let why = Failure::step(&error);
                self.not_spawned = Some(error);
                Err(why)
            }
        };
        if let Some(child) = self.next.of(green) {
            self.instance.give_terminal(child);
            self.child = Some(child.clone());
            self.instance.set_launching(self.context.inputs.clone(), self.child.clone());
        }
        Some(RolloutEvent::Spawned { green, result })
    }

    fn heartbeat(&mut self, _: &Rollout) {}

    fn status(&mut self, rollout: &Rollout, depth: Depth) -> Draft {
        let known = Known {
            name: self.instance.name.clone(),
            addresses: self.instance.addresses(),
            unix: Vec::new(),
            steering: self.context.groups.tier(),
            own: self.context.who(),
            connections: None,
            kinds: None,
            green: self.child.as_ref().map(|child| (child.generation, child.pid)),
            draining: vec![],
            history: History::default(),
            supervisor: Some(self.context.pid),
            processes: BTreeMap::new(),
        };
        Draft::new(known, rollout, depth)
    }

    fn log_status(&mut self, _: Phase) {}

    fn look_for_strangers(&mut self) {}

    /// Hands the inputs on that came when the first generation was live already.
    fn hand_on(&mut self, inputs: Vec<Input>) {
        let instance = self.instance.clone();
        tokio::spawn(async move {
            for input in inputs {
                instance.hand_on(input).await;
            }
        });
    }

    async fn close(&mut self) {
        if let Some(reply) = self.reply.take() {
            // An error means that nobody waits for the launch any more.
            let _ = reply.send(self.result().await);
        }
    }

    fn tell_reloading(&mut self) {}

    fn tell_ready(&mut self) {}

    fn record(&mut self, _: Outcome) {}

    fn preflight(&self) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        ready(Ok(()))
    }

    fn before_gate(&self) -> impl Future<Output = Result<(), Stalled>> + Send + 'static {
        ready(Ok(()))
    }

    fn spawn(&self, green: Generation) {
        self.next.spawn(green);
    }

    fn look(&self, green: Generation) -> Option<Look> {
        self.next.look(green)
    }

    /// No other generation listens, so that no connection must be steered.
    fn probe(&self) -> Option<Probe> {
        self.instance.probe().map(|probe| Probe { is_steered: false, ..probe })
    }

    fn kill(&self, green: Generation) {
        let Some(child) = self.next.of(green).cloned() else { return };
        self.killed.store(true, Ordering::Relaxed);
        let (instance, elsewhere) = (self.instance.clone(), self.elsewhere.clone());
        tokio::spawn(async move {
            if !child.was_ready() {
                let seen = readiness::elsewhere(&instance, &child).await;
                *elsewhere.lock().unwrap_or_else(PoisonError::into_inner) = seen;
            }
            child.killed().await;
        });
    }

    fn release(&mut self, green: Generation) {
        self.kill(green);
    }

    fn forget_green(&mut self) {}

    /// Makes the first generation live, before the machine of the launch ends.
    fn hand_over(&mut self, green: Generation, _: Duration) {
        if let (Some(child), Some(reply)) = (self.next.of(green).cloned(), self.reply.take()) {
            generation::enter(&self.instance, child);
            // An error means that nobody waits for the launch any more.
            let _ = reply.send(Ok(Launched::Live));
        }
    }

    fn launch_failed(&mut self, reason: Failure) {
        self.failure = Some(reason);
    }

    fn retire(&mut self) {}

    fn stop_accepting(&mut self) {
        if let Some(child) = &self.child {
            retire::tell(child, self.instance.stop_signal());
        }
        self.context.send(RolloutEvent::ListenersClosed);
    }

    fn await_connections(&mut self, _: DrainScope) {
        let end = self.child.as_ref().map(|child| child.end());
        self.context.in_background(async move {
            if let Some(end) = end {
                end.await;
            }
            RolloutEvent::ConnectionsGone
        });
    }

    fn force_close(&self) {
        if let Some(child) = self.child.clone() {
            child.kill_in_background();
        }
    }

    fn force_close_predecessors(&mut self) {}
}

impl LaunchHost {
    /// The result of a launch that did not make a generation live.
    async fn result(&mut self) -> Result<Launched, Error> {
        if let Some(error) = self.not_spawned.take() {
            return Err(Error::io(ErrorKind::Program, "the program cannot be started", error));
        }
        let reason = self.failure.take().unwrap_or(Failure::Gone);
        let stopped = self.instance.stopped_by();
        let of_signal = stopped.map(|signal| 128 + u8::try_from(signal.as_raw()).unwrap_or_default());
        let is_killed = self.killed.load(Ordering::Relaxed);
        let Some(child) = self.child.clone() else {
            // The process may still be spawned, and is killed then by the code that spawns it.
            return of_signal.map(Launched::Over).ok_or_else(|| not_ready(&format!("{reason}; nothing runs")));
        };
        let left = readiness::left(&child).await;
        child.killed().await;
        match of_signal {
            Some(code) if is_killed => return Ok(Launched::Over(code)),
            None if is_killed => {
                // Any other reason is the generation's own.
                let is_late = matches!(reason, Failure::NotReady(_));
                let seen = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
                let elsewhere = if is_late { seen.as_str() } else { "" };
                return Err(not_ready(&format!("{reason}{elsewhere}; nothing runs")));
            }
            Some(_) | None => {}
        }
        // A process that hangs in the kernel has no end.
        let ended = tokio::time::timeout(KILL_MAX, child.end()).await.ok().flatten();
        let how = ended.map(|ended| ended.to_string());
        match stopped {
            Some(_) => tracing::info!(generation = %child.generation, pid = %child.pid, how, "gone"),
            None => tracing::error!(generation = %child.generation, pid = %child.pid, "{reason}"),
        }
        match ended.map_or(0, |ended| ended.code()) {
            // An exit code of 0 is no success if the program has left processes that cannot be supervised.
            0 if !left.is_empty() && stopped.is_none() => Err(not_ready(&reason.to_string())),
            code => Ok(Launched::Over(code)),
        }
    }
}

fn not_ready(what: &str) -> Error {
    Error::new(ErrorKind::NotReady, format!("generation {} {what}", Generation::FIRST))
}

#[cfg(test)]
mod tests;
