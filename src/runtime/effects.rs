//! The host of a server that restarts itself: performs the effects of the machine in this process.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;

use super::accept::Acceptors;
use super::connections::{Connections, Stage};
use super::driver::Input;
use super::green::{Green, Newborn, Plan};
use super::groups::Groups;
use super::handover::ToBlue;
use super::pid_file;
use super::predecessors::Predecessors;
use super::retire::{Close, Retirement, lock};
use super::service_manager::{Notifier, NotifyState};
use crate::model::addresses::Bound;
use crate::model::event::{Event as Told, Outcome, Phase};
use crate::model::identity::{Generation, Pid};
use crate::model::message::{Birth, FromBlue, GroupOrder, PROTOCOL};
use crate::model::rollout::{Effect, Event};
use crate::sys::notify_socket::unique_name;
use crate::sys::origin::Origin;

/// Asks the application whether a reload may begin.
pub(crate) type BeforeReload = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Everything that the effects need.
pub(crate) struct Host {
    pub(crate) generation: Generation,
    pub(crate) origin: Arc<Origin>,
    pub(crate) addresses: Vec<Bound>,
    pub(crate) linger: Duration,
    pub(crate) idle_grace: Duration,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) before_reload: Option<BeforeReload>,
    pub(crate) groups: Arc<Mutex<Groups>>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) acceptors: Option<Acceptors>,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) green: Option<Green>,
    pub(crate) to_blue: Option<ToBlue>,
    pub(crate) predecessors: Predecessors,
    pub(crate) manager: Notifier,
    pub(crate) events: broadcast::Sender<Told>,
    pub(crate) close_now: watch::Sender<bool>,
}

impl Host {
    /// Tells those who watch the events; it is nothing to us if nobody does.
    pub(crate) fn tell(&self, event: Told) {
        let _ = self.events.send(event);
    }

    /// Performs one effect: at once, or in the background, and then the result comes as an event.
    pub(crate) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Preflight { green } => self.preflight(green),
            Effect::Gate { green } => self.gate(green),
            Effect::Spawn { green } => self.spawn(green),
            Effect::Verify { green } => self.verify(green),
            Effect::CutOver { green } => {
                let tier = lock(&self.groups).cut_over();
                tracing::info!(generation = %green, %tier, "new connections go to the next generation");
                self.send(Event::CutOver { green, result: Ok(()) });
            }
            Effect::SteerBack => lock(&self.groups).steer_back(),
            Effect::Kill { green } => {
                self.with_green(green, Green::kill);
            }
            Effect::HandOver { green } => self.hand_over(green),
            Effect::Retire => {
                let stage = Stage::Retiring { since: Instant::now(), grace: self.idle_grace };
                self.connections.enter_stage(stage);
                self.close_listeners(Close::ForSuccessor);
            }
            Effect::StopAccepting => {
                self.manager.send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
                self.connections.enter_stage(Stage::Stopping);
                self.close_listeners(Close::ForGood);
            }
            Effect::CloseNow => {
                self.close_now.send_replace(true);
            }
            Effect::AwaitConnections => self.await_connections(),
            Effect::Hammer => {
                let left = self.connections.open();
                if left > 0 {
                    tracing::warn!(generation = %self.generation, connections = left, "closing the connections that are left");
                }
                self.connections.enter_stage(Stage::Hammered);
            }
            Effect::HammerPredecessors => self.predecessors.hammer(),
            Effect::BecomeLive => self.become_live(),
            Effect::Report(outcome) => self.report(outcome),
            Effect::Refuse { reason } => {
                tracing::warn!(generation = %self.generation, reason, "reload refused");
                self.tell(Told::Refused(reason));
            }
            Effect::GreenLost { green, how } => {
                tracing::error!(generation = %green, "the live generation {how}; generation {} has retired and cannot serve again", self.generation);
            }
            Effect::Finish => {}
        }
    }

    fn send(&self, event: Event) {
        let inputs = self.inputs.clone();
        // Not awaited here: the driver that would make room is the caller.
        tokio::spawn(async move { inputs.send(Input::Rollout(event)).await });
    }

    /// Performs `work`, whose result is an event, in the background.
    fn in_background(&self, work: impl Future<Output = Event> + Send + 'static) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let event = work.await;
            // The driver is gone only when nobody needs the result.
            let _ = inputs.send(Input::Rollout(event)).await;
        });
    }

    fn with_green<T>(&self, generation: Generation, act: impl FnOnce(&Green) -> T) -> Option<T> {
        self.green.as_ref().filter(|green| green.generation == generation).map(act)
    }

    fn preflight(&self, green: Generation) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.manager.send(&[
                NotifyState::Reloading,
                now,
                NotifyState::Status(&format!("starting generation {green}")),
            ]);
        }
        tracing::info!(generation = %self.generation, green = %green, "reloading");
        let (origin, hook) = (self.origin.clone(), self.before_reload.clone());
        self.in_background(async move {
            let asked = tokio::task::spawn_blocking(move || {
                origin.executable()?;
                hook.map_or(Ok(()), |hook| hook().map_err(|why| format!("was refused by the application: {why}")))
            });
            let result = asked.await.unwrap_or_else(|_| Err("was refused: the before_reload hook panicked".into()));
            Event::PreflightDone { green, result }
        });
    }

    fn gate(&self, green: Generation) {
        let (groups, to_blue) = (self.groups.clone(), self.to_blue.clone());
        self.in_background(async move {
            if let Some(blue) = to_blue {
                blue.closed().await;
            }
            // It does not fail: what cannot be steered is said, and left to the kernel.
            let _ = tokio::task::spawn_blocking(move || lock(&groups).gate()).await;
            Event::Gated { green }
        });
    }

    fn spawn(&self, green: Generation) {
        let (origin, inputs) = (self.origin.clone(), self.inputs.clone());
        let (blue_generation, addresses) = (self.generation, self.addresses.clone());
        let manager = self.manager.name().map(ToOwned::to_owned);
        tokio::spawn(async move {
            let spawned = async {
                let path = origin.executable().map_err(std::io::Error::other)?;
                let blue = Pid::new(std::process::id());
                let handover = unique_name("handover")?;
                let birth = Birth { protocol: PROTOCOL, generation: green, blue, blue_generation, handover, addresses };
                Newborn::spawn(Plan { origin, birth, manager, inputs: inputs.clone() }, path).await
            };
            let result = spawned.await.map(Box::new).map_err(|error| format!("cannot be spawned: {error}"));
            // The driver is gone only when nobody needs the result.
            let _ = inputs.send(Input::Spawned { green, result }).await;
        });
    }

    /// Takes a new process on, and begins to listen to it.
    pub(crate) fn adopt(&mut self, newborn: Newborn) -> Pid {
        let pid = newborn.pid;
        let green = newborn.listen_to();
        tracing::info!(generation = %green.generation, %pid, "spawned");
        match &self.green {
            // One that was given up long ago, and comes when another attempt has its process already.
            Some(_) => green.kill(),
            None => self.green = Some(green),
        }
        pid
    }

    fn verify(&self, green: Generation) {
        let groups = self.groups.clone();
        let known = self.with_green(green, |process| (process.pid, process.handover.told()));
        self.in_background(async move {
            let result = match known {
                Some((pid, told)) => {
                    let told = told.await;
                    let looked = tokio::task::spawn_blocking(move || lock(&groups).verify(pid, &told)).await;
                    looked.unwrap_or_else(|_| Err("cannot be looked at".into()))
                }
                None => Err("is gone".into()),
            };
            Event::Verified { green, result }
        });
    }

    /// Passes the office on: the PID file and the service manager first, so that green's own words count when it speaks.
    fn hand_over(&mut self, green: Generation) {
        let Some(pid) = self.with_green(green, |process| process.pid) else { return };
        self.write_pid_file(pid);
        self.manager.send(&[NotifyState::MainPid(pid.number())]);
        let draining = self.predecessors.join(self.generation, Pid::new(std::process::id()));
        self.with_green(green, |process| process.handover.send(&FromBlue::Live { draining }));
    }

    fn close_listeners(&mut self, why: Close) {
        let Some(acceptors) = self.acceptors.take() else { return self.send(Event::ListenersClosed) };
        let (groups, linger, now) = (self.groups.clone(), self.linger, self.close_now.subscribe());
        let retirement = Retirement { groups: groups.clone(), acceptors, linger, now };
        let to_green = self.green.as_ref().map(|green| green.handover.clone());
        self.in_background(async move {
            retirement.close(why).await;
            if let Some(to_green) = to_green {
                to_green.send(&FromBlue::Closed { groups: lock(&groups).order() });
            }
            Event::ListenersClosed
        });
    }

    fn await_connections(&self) {
        let connections = self.connections.clone();
        tracing::info!(generation = %self.generation, connections = connections.open(), "draining");
        self.in_background(async move {
            connections.gone().await;
            Event::ConnectionsGone
        });
    }

    pub(crate) fn become_live(&self) {
        let (generation, pid) = (self.generation, Pid::new(std::process::id()));
        self.write_pid_file(pid);
        self.manager.send(&[NotifyState::Ready, NotifyState::Status(&format!("generation {generation} serves"))]);
        tracing::info!(%generation, %pid, "live");
    }

    fn report(&mut self, outcome: Outcome) {
        let me = self.generation;
        match &outcome {
            Outcome::Done { generation, pid, took } => {
                tracing::info!(%generation, %pid, ?took, "reload done: generation {generation} is live, generation {me} retires");
            }
            Outcome::RolledBack { generation, reason, took } => {
                tracing::error!(%generation, ?took, "reload failed: generation {generation} {reason}; generation {me} serves on");
                lock(&self.groups).green_is_gone();
                self.green = None;
                let status = format!("generation {me} serves; generation {generation} failed: {reason}");
                self.manager.send(&[NotifyState::Ready, NotifyState::Status(&status)]);
            }
        }
        self.tell(Told::Reload(outcome));
    }

    /// The generation before holds no listener any more: from now on this one steers the groups.
    pub(crate) fn take_over_groups(&self, told: &[GroupOrder]) {
        let mut groups = lock(&self.groups);
        groups.learn(told);
        groups.gate();
    }

    /// Only while no rollout runs: a next generation that has just begun to listen would look like a stranger.
    pub(crate) fn look_for_strangers(&self) {
        if self.to_blue.as_ref().is_none_or(ToBlue::is_closed) {
            lock(&self.groups).name_strangers();
        }
    }

    fn write_pid_file(&self, pid: Pid) {
        let Some(path) = &self.pid_file else { return };
        if let Err(error) = pid_file::write(path, pid) {
            tracing::warn!(%error, "ignoring");
        }
    }

    pub(crate) fn log_status(&mut self, phase: Phase) {
        let draining = self.predecessors.draining();
        let tier = lock(&self.groups).tier();
        tracing::info!(
            generation = %self.generation,
            pid = std::process::id(),
            %phase,
            steering = %tier,
            connections = self.connections.open(),
            draining = ?draining.iter().map(|d| (d.generation.number(), d.pid.number())).collect::<Vec<_>>(),
            "status"
        );
    }

    /// The end of this generation.
    pub(crate) fn close(&self) {
        if let Some(path) = &self.pid_file {
            pid_file::remove(path, Pid::new(std::process::id()));
        }
        tracing::info!(generation = %self.generation, pid = std::process::id(), connections = self.connections.open(), "gone");
    }
}
