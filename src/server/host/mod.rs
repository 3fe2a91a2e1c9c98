//! The host of a server that restarts itself: performs the effects of the rollout machine in this process.

mod drain;
mod forward;
mod service_manager;
mod status;
mod succession;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::green::{Green, SpawnedGreen};
use super::handover::{BlueEvent, Inheritance, Supply, ToBlue};
use super::unix_listeners::UnixListeners;
use crate::model::addresses::Bound;
use crate::model::event::{Outcome, Phase};
use crate::model::handover::History;
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::{DrainScope, Failure, Rollout, RolloutEvent};
use crate::runtime::accept::Acceptors;
use crate::runtime::connections::{Connections, Stage};
use crate::runtime::context::{Context, now};
use crate::runtime::control::{Control, Taken};
use crate::runtime::groups::Table;
use crate::runtime::host::Look;
use crate::runtime::offload::Stalled;
use crate::runtime::pid_file::PidFile;
use crate::runtime::predecessors::Predecessors;
use crate::runtime::probe::Probe;
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

/// What does not change in the life of a generation.
pub(crate) struct Settings {
    pub(crate) name: String,
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
    /// Whether `cutover run` starts the next generation beside this one.
    pub(crate) supervised: bool,
    pub(crate) probe: Option<Probe>,
    /// What the next generation may ask for.
    pub(crate) supply: Supply,
    pub(crate) before_reload: Option<BeforeReload>,
}

/// The state that the effects need.
pub(crate) struct Host {
    pub(crate) context: Context,
    pub(crate) settings: Settings,
    pub(crate) connections: Arc<Connections>,
    pub(crate) host_events: mpsc::Sender<HostEvent>,
    pub(crate) service_manager: ServiceManager,
    /// `None` once the listeners are being closed.
    pub(crate) acceptors: Option<Acceptors>,
    /// The listeners on Unix sockets; `None` once they are being closed.
    pub(crate) unix: Option<UnixListeners>,
    pub(crate) pid_file: Option<PidFile>,
    pub(crate) control: Option<Control>,
    pub(crate) to_blue: Option<ToBlue>,
    green: Option<Green>,
    predecessors: Predecessors,
    history: History,
    leadership: Leadership,
    /// The task that passes the leadership on, once this has begun. It ends after `passed_on` has become true.
    passing_on: Option<JoinHandle<()>>,
}

/// The events that reach a server that restarts itself from its generations.
#[derive(Debug)]
pub(crate) enum HostEvent {
    /// The process of the next generation was spawned, or could not be spawned.
    Spawned { green: Generation, result: Result<Box<SpawnedGreen>, Failure> },
    /// The control socket was taken over.
    Control(Taken),
    /// The files that go with the leadership were taken over, as far as their disks have answered.
    Files,
    /// The previous generation has sent a message, or is gone.
    Blue(BlueEvent),
    /// This generation stops, and other listeners are in the group of each address, or not.
    Stops { others_listen: bool },
}

impl From<BlueEvent> for HostEvent {
    fn from(event: BlueEvent) -> HostEvent {
        HostEvent::Blue(event)
    }
}

impl crate::runtime::host::Host for Host {
    type HostEvent = HostEvent;

    fn context(&self) -> &Context {
        &self.context
    }

    fn context_mut(&mut self) -> &mut Context {
        &mut self.context
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
                if rollout.is_leaving() {
                    // This generation was told to stop before, and takes nothing over: blue, for whose end it waits, must
                    // not wait for that.
                    self.to_blue.iter().for_each(ToBlue::live);
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
                tracing::debug!(generation = %self.context.generation, "the previous generation has closed its listeners");
                // A generation that was sent away no longer steers, whatever happens to blue.
                self.take_over_groups(if rollout.is_leaving() { None } else { Some(groups) });
            }
            HostEvent::Stops { others_listen } => self.stop_beside(others_listen),
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
            self.context.groups.post(Table::name_strangers);
        }
    }

    async fn close(&mut self) {
        self.end().await;
    }

    fn tell_reloading(&mut self) {
        self.service_manager.reloading();
    }

    fn tell_ready(&mut self) {
        self.tell_serving();
    }

    fn record(&mut self, outcome: Outcome) {
        self.history.add(outcome, now());
    }

    fn preflight(&self) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        let asked = self.ask_disk_and_application();
        async move { asked.await.map_err(|error| Failure::step(&error)) }
    }

    /// The order of the slots is known when the generation before has closed its listeners.
    fn before_gate(&self) -> impl Future<Output = Result<(), Stalled>> + Send + 'static {
        let to_blue = self.to_blue.clone();
        async move {
            if let Some(blue) = to_blue {
                blue.closed().await;
            }
            Ok(())
        }
    }

    fn spawn(&self, green: Generation) {
        self.spawn_green(green);
    }

    fn look(&self, green: Generation) -> Option<Look> {
        self.look_at(green)
    }

    fn probe(&self) -> Option<Probe> {
        let mut probe = self.settings.probe.clone()?;
        if let Some(addresses) = self.green.as_ref().and_then(|green| green.handover.addresses()) {
            probe.addresses = addresses;
        }
        Some(probe)
    }

    fn kill(&self, green: Generation) {
        if let Some(process) = self.with_green(green, Green::process) {
            self.context.groups.post(move |_| process.kill());
        }
    }

    fn release(&mut self, green: Generation) {
        self.send_away(green);
    }

    fn forget_green(&mut self) {
        self.green = None;
    }

    fn hand_over(&mut self, green: Generation, took: Duration) {
        self.pass_on(green, took);
    }

    fn become_live(&mut self) {
        self.accept_on_unix();
        self.take_leadership();
        let (files, host_events) = (self.take_files(), self.host_events.clone());
        // An error means that the driver is gone, and no longer needs the event.
        tokio::spawn(async move {
            files.await;
            host_events.send(HostEvent::Files).await
        });
    }

    fn green_lost(&self, green: Generation, how: &str) {
        let me = self.context.generation;
        tracing::error!(generation = %green, "the live generation {how}; generation {me} has retired and cannot serve again");
    }

    fn retire(&mut self) {
        self.close_for_successor();
    }

    fn stop_accepting(&mut self) {
        self.stop();
    }

    fn await_connections(&mut self, whose: DrainScope) {
        self.drain(whose);
    }

    fn close_idle(&self) {
        self.connections.enter_stage(Stage::Stopping { grace: self.settings.idle_grace });
    }

    fn force_close(&self) {
        let left = self.connections.open();
        if left > 0 {
            tracing::warn!(generation = %self.context.generation, connections = left, "closing the connections that are left");
        }
        self.connections.enter_stage(Stage::ForceClosed);
    }

    fn force_close_predecessors(&mut self) {
        self.predecessors.force_close();
    }
}

impl Host {
    /// A generation without a generation before it, without files, and without listeners.
    pub(crate) fn new(
        context: Context,
        settings: Settings,
        connections: Arc<Connections>,
        host_events: mpsc::Sender<HostEvent>,
        service_manager: ServiceManager,
    ) -> Host {
        Host {
            context,
            settings,
            connections,
            host_events,
            service_manager,
            acceptors: None,
            unix: None,
            pid_file: None,
            control: None,
            to_blue: None,
            green: None,
            predecessors: Predecessors::default(),
            history: History::default(),
            leadership: Leadership::Never,
            passing_on: None,
        }
    }

    /// Begins to accept from the listeners on Unix sockets, which the previous generation has left to this one.
    fn accept_on_unix(&mut self) {
        if let Some(unix) = &mut self.unix {
            unix.open();
        }
    }

    fn with_green<T>(&self, generation: Generation, act: impl FnOnce(&Green) -> T) -> Option<T> {
        self.green.as_ref().filter(|green| green.generation == generation).map(act)
    }
}

#[cfg(test)]
mod tests;
