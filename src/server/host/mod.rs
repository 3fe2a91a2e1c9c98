//! The host of a server that restarts itself: performs the effects of the rollout machine in this process.

mod drain;
mod forward;
mod service_manager;
mod status;
mod succession;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use super::green::{Green, SpawnedGreen};
use super::handover::{BlueEvent, Inheritance, ToBlue};
use crate::model::addresses::Bound;
use crate::model::event::{Event, Phase};
use crate::model::handover::History;
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::{Effect, Rollout, RolloutEvent};
use crate::runtime::accept::Acceptors;
use crate::runtime::connections::Connections;
use crate::runtime::control::{Control, Taken};
use crate::runtime::driver::{self, Input};
use crate::runtime::groups::Groups;
use crate::runtime::groups::lock;
use crate::runtime::offload::Lane;
use crate::runtime::pid_file::PidFile;
use crate::runtime::predecessors::Predecessors;
use crate::runtime::rollout_steps::Probe;
use crate::runtime::service_manager::ServiceManager;
use crate::runtime::status::{Depth, Draft};
use crate::sys::launch::Launch;

/// Asks the application whether a reload may begin.
pub(crate) type BeforeReload = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Whether this generation has the leadership, and so speaks to the service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leadership {
    Never,
    Held,
    PassedOn,
}

/// The state that the effects need.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) generation: Generation,
    pub(crate) pid: Pid,
    /// The service manager, if this process is its child: the next generation is then to be its child as well.
    pub(crate) parent: Option<Pid>,
    pub(crate) launch: Arc<Launch>,
    pub(crate) addresses: Vec<Bound>,
    /// How many of `addresses` belong to the application; metrics are served on the others.
    pub(crate) offered: usize,
    pub(crate) linger: Duration,
    pub(crate) idle_grace: Duration,
    /// How long a green that was sent away may take to end before it is killed.
    pub(crate) release: Duration,
    pub(crate) needs_steering: bool,
    /// Whether `cutover run` starts the next generation beside this one.
    pub(crate) supervised: bool,
    pub(crate) probe: Option<Probe>,
    pub(crate) probing: Option<AbortHandle>,
    /// The task that waits for the preflight of a rollout.
    pub(crate) checking: Option<AbortHandle>,
    /// The lane for the work of a rollout that may wait for a disk or for the application: its preflight and its exec.
    pub(crate) attempts: Lane,
    pub(crate) pid_file: Option<PidFile>,
    pub(crate) control: Option<Control>,
    pub(crate) before_reload: Option<BeforeReload>,
    pub(crate) groups: Arc<Mutex<Groups>>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) acceptors: Option<Acceptors>,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) host_events: mpsc::Sender<HostEvent>,
    pub(crate) green: Option<Green>,
    pub(crate) to_blue: Option<ToBlue>,
    pub(crate) predecessors: Predecessors,
    pub(crate) history: History,
    pub(crate) leadership: Leadership,
    pub(crate) service_manager: ServiceManager,
    /// The failure of the last rollout, if it was rolled back.
    pub(crate) failed: Option<String>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) close_now: watch::Sender<bool>,
    /// Becomes true when the next generation has taken the leadership.
    pub(crate) passed_on: watch::Sender<bool>,
    /// The task that passes the leadership on, once this has begun. It ends after `passed_on` has become true.
    pub(crate) passing_on: Option<JoinHandle<()>>,
}

/// The events that reach a server that restarts itself from its generations.
#[derive(Debug)]
pub(crate) enum HostEvent {
    /// The process of the next generation was spawned, or could not be spawned.
    Spawned { green: Generation, result: Result<Box<SpawnedGreen>, String> },
    /// The control socket was taken over.
    Control(Taken),
    /// The files that go with the leadership were taken over, as far as their disks have answered.
    Files,
    /// The previous generation has sent a message, or is gone.
    Blue(BlueEvent),
}

impl From<BlueEvent> for HostEvent {
    fn from(event: BlueEvent) -> HostEvent {
        HostEvent::Blue(event)
    }
}

impl driver::Host for Host {
    type HostEvent = HostEvent;

    fn who(&self) -> (Generation, Pid) {
        (self.generation, self.pid)
    }

    /// An error means that there are no subscribers, and is ignored.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    fn take(&mut self, host_event: HostEvent, rollout: &Rollout) -> Option<RolloutEvent> {
        match host_event {
            HostEvent::Spawned { green, result } => {
                // Its notifications are read only from here on, so that none of them precedes the event of the spawn.
                let result = result.map(|spawned| self.adopt(*spawned, rollout));
                return Some(RolloutEvent::Spawned { green, result });
            }
            HostEvent::Blue(BlueEvent::Live(inheritance)) => {
                if let Some(Inheritance { draining, history }) = inheritance {
                    self.inherit(&draining, history);
                }
                return Some(RolloutEvent::Live);
            }
            HostEvent::Control(taken) => {
                if let Some(control) = &mut self.control {
                    control.open(taken);
                }
            }
            HostEvent::Files => self.has_files(),
            HostEvent::Blue(BlueEvent::TakenBack { by }) => return Some(RolloutEvent::TakenBack { by }),
            HostEvent::Blue(BlueEvent::Closed(groups)) => {
                tracing::debug!(generation = %self.generation, "the generation before has closed its listeners");
                // A generation that was sent away no longer steers, whatever happens to blue.
                if !rollout.is_leaving() {
                    self.take_over_groups(&groups);
                }
                self.to_blue.iter().for_each(ToBlue::mark_taken_over);
            }
        }
        None
    }

    fn heartbeat(&mut self, rollout: &Rollout) {
        self.tell_manager(rollout);
    }

    fn status(&mut self, rollout: &Rollout, depth: Depth) -> Draft {
        self.draft(rollout, depth)
    }

    fn log_status(&mut self, phase: Phase) {
        self.log(phase);
    }

    /// The listeners of the generation before would look foreign until that generation has closed them.
    fn look_for_strangers(&mut self) {
        if self.to_blue.as_ref().is_none_or(ToBlue::is_closed) {
            lock(&self.groups).name_strangers();
        }
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
                lock(&self.groups).steer_back();
            }
            Effect::Kill { green } => {
                self.with_green(green, Green::kill);
            }
            Effect::Release { green } => self.release(green),
            Effect::HandOver { green, took } => self.hand_over(green, took),
            Effect::Retire => self.retire(),
            Effect::StopAccepting => self.stop_accepting(),
            Effect::CloseNow => {
                self.close_now.send_replace(true);
            }
            Effect::AwaitConnections(whose) => self.await_connections(whose),
            Effect::CloseIdle => self.close_idle(),
            Effect::ForceClose => self.force_close(),
            Effect::ForceClosePredecessors => self.predecessors.force_close(),
            Effect::BecomeLive => {
                self.become_live();
                let (files, host_events) = (self.take_files(), self.host_events.clone());
                // An error means that the driver is gone, and no longer needs the event.
                tokio::spawn(async move {
                    files.await;
                    host_events.send(HostEvent::Files).await
                });
            }
            Effect::Report { outcome, serves_on } => self.report(outcome, serves_on),
            Effect::GreenLost { green, how } => {
                tracing::error!(generation = %green, "the live generation {how}; generation {} has retired and cannot serve again", self.generation);
            }
            // The driver reports these, except for the last.
            Effect::Canary { .. } | Effect::Soak { .. } | Effect::Refuse { .. } | Effect::Finish => {}
        }
    }
}

impl Host {
    fn with_green<T>(&self, generation: Generation, act: impl FnOnce(&Green) -> T) -> Option<T> {
        self.green.as_ref().filter(|green| green.generation == generation).map(act)
    }
}
