//! The state that all generations of a supervised program share: above all the leadership, which passes from one
//! generation to the next.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;
use tokio::sync::{broadcast, mpsc, watch};

use super::child::Child;
use super::settings::Settings;
use super::unix_listeners::UnixListeners;
use crate::model::event::Event;
use crate::model::handover::History;
use crate::model::identity::Generation;
use crate::model::rollout::RolloutEvent;
use crate::runtime::control::{Counts, LiveEndpoint, looks};
use crate::runtime::groups::Groups;
use crate::runtime::input::Input;
use crate::runtime::offload::{Lane, attempts};
use crate::runtime::predecessors::MAX;
use crate::runtime::probe::Probe;
use crate::runtime::service_manager::{ServiceManager, ServiceStatus};
use crate::sys::launch::Launch;
use crate::sys::reaper::Reaper;
use crate::sys::terminal::Terminal;

/// Capacity of the event channel: how many events a slow reader may fall behind.
const EVENTS: usize = 256;

/// The shared state of the supervisor.
pub(super) struct Instance {
    pub(super) name: String,
    pub(super) settings: Settings,
    /// The program, and what it is started with.
    pub(super) program: Launch,
    pub(super) reaper: Reaper,
    pub(super) terminal: Option<Terminal>,
    pub(super) groups: Groups,
    pub(super) unix: UnixListeners,
    /// The addresses on which the program listens, as far as they are known.
    pub(super) addresses: Mutex<Vec<SocketAddr>>,
    pub(super) service_manager: Mutex<ServiceManager>,
    pub(super) history: Mutex<History>,
    /// The signal that ends the live generation, if it differs from the configured stop signal.
    pub(super) stop_with: Mutex<Option<Signal>>,
    /// Whether a signal has stopped the program.
    is_stopped: AtomicBool,
    /// The endpoint that answers requests to the control socket.
    pub(super) live_endpoint: watch::Sender<LiveEndpoint>,
    /// The lane for the looks at processes during a rollout.
    pub(super) looks: Lane,
    /// See [`attempts`].
    pub(super) attempts: Lane,
    current: Mutex<Current>,
    leaving: Mutex<Vec<Leaving>>,
    /// The exit code, once the supervisor is to end.
    pub(super) over: watch::Sender<Option<u8>>,
}

/// The generation that has the leadership.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) child: Arc<Child>,
    pub(super) inputs: mpsc::Sender<Input>,
}

/// The machine that gets the signals and the requests.
#[derive(Clone)]
enum Current {
    /// The supervisor has just begun.
    Nothing,
    /// The first generation is being launched. `child` is `None` until its process was spawned.
    Launching {
        inputs: mpsc::Sender<Input>,
        child: Option<Arc<Child>>,
    },
    Live(Live),
}

/// A generation that is leaving, and finishes its connections.
struct Leaving {
    child: Arc<Child>,
    inputs: mpsc::Sender<Input>,
    gone: watch::Receiver<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The arguments of [`Instance::new`].
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) settings: Settings,
    pub(super) program: Launch,
    pub(super) reaper: Reaper,
    pub(super) groups: Groups,
    pub(super) unix: UnixListeners,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) service_manager: ServiceManager,
    pub(super) live_endpoint: watch::Sender<LiveEndpoint>,
}

impl Instance {
    pub(super) fn new(parts: Parts) -> Instance {
        Instance {
            name: parts.name,
            settings: parts.settings,
            program: parts.program,
            reaper: parts.reaper,
            terminal: Terminal::ours(),
            groups: parts.groups,
            unix: parts.unix,
            addresses: Mutex::new(parts.addresses),
            service_manager: Mutex::new(parts.service_manager),
            history: Mutex::default(),
            stop_with: Mutex::new(None),
            is_stopped: AtomicBool::new(false),
            live_endpoint: parts.live_endpoint,
            looks: Lane::new(2),
            attempts: attempts(),
            current: Mutex::new(Current::Nothing),
            leaving: Mutex::default(),
            over: watch::Sender::new(None),
        }
    }

    pub(super) fn service_manager(&self) -> MutexGuard<'_, ServiceManager> {
        lock(&self.service_manager)
    }

    /// Passes the state of the live generation to `tell`.
    pub(super) fn with_service_status(
        &self,
        failed: Option<&str>,
        tell: impl FnOnce(&mut ServiceManager, &ServiceStatus<'_>),
    ) {
        if !self.service_manager().is_there() {
            return;
        }
        let Some(Live { child, .. }) = self.live() else { return };
        let draining = self.draining().iter().map(|child| child.generation).collect();
        let says = child.says();
        let connections = child.open().load(Ordering::Relaxed);
        let service_status =
            ServiceStatus { generation: child.generation, connections, draining, failed, says: says.as_deref() };
        tell(&mut self.service_manager(), &service_status);
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        lock(&self.addresses).clone()
    }

    pub(super) fn set_addresses(&self, found: Vec<SocketAddr>) {
        *lock(&self.addresses) = found;
    }

    pub(super) fn ports(&self) -> BTreeSet<u16> {
        lock(&self.addresses).iter().map(SocketAddr::port).collect()
    }

    /// The generation that has the leadership; `None` before the first generation is ready.
    pub(super) fn live(&self) -> Option<Live> {
        match &*lock(&self.current) {
            Current::Live(live) => Some(live.clone()),
            Current::Nothing | Current::Launching { .. } => None,
        }
    }

    pub(super) fn is_live(&self, generation: Generation) -> bool {
        self.live().is_some_and(|live| live.child.generation == generation)
    }

    /// Gives the terminal to this generation, if there is a terminal.
    pub(super) fn give_terminal(&self, child: &Child) {
        let Some(terminal) = &self.terminal else { return };
        match terminal.give(child.pid) {
            // A process that has read from the terminal before was stopped by that read.
            Ok(()) => child.signal(Signal::CONT),
            Err(error) => tracing::debug!(%error, "ignoring"),
        }
    }

    /// The signal that tells a generation to end.
    pub(super) fn stop_signal(&self) -> Signal {
        lock(&self.stop_with).unwrap_or(self.settings.stop_signal)
    }

    /// Stops the program; `with` replaces the configured stop signal.
    pub(super) async fn stop(&self, with: Option<Signal>) {
        if let Some(with) = with {
            *lock(&self.stop_with) = Some(with);
        }
        self.is_stopped.store(true, Ordering::Relaxed);
        self.ask(RolloutEvent::StopRequested).await;
    }

    /// The signal that has stopped the program, if one has.
    pub(super) fn stopped_by(&self) -> Option<Signal> {
        let is_stopped = self.is_stopped.load(Ordering::Relaxed);
        is_stopped.then(|| lock(&self.stop_with).unwrap_or(Signal::TERM))
    }

    /// Sends an event to the machine of the live generation, or of the launch.
    pub(super) async fn ask(&self, event: RolloutEvent) {
        self.hand_on(Input::Rollout(event)).await;
    }

    /// Sends an input to the machine of the live generation, or of the launch. A machine that has ended meanwhile has
    /// made another generation live, or nothing lives that needs the input.
    pub(super) async fn hand_on(&self, mut input: Input) {
        while let Some(inputs) = self.inputs() {
            match inputs.send(input).await {
                Ok(()) => return,
                Err(_) if self.inputs().is_none_or(|now| now.same_channel(&inputs)) => return,
                Err(back) => input = back.0,
            }
        }
    }

    fn inputs(&self) -> Option<mpsc::Sender<Input>> {
        match &*lock(&self.current) {
            Current::Nothing => None,
            Current::Launching { inputs, .. } | Current::Live(Live { inputs, .. }) => Some(inputs.clone()),
        }
    }

    /// Sends a signal to the first process of the live generation, or of the one that is being launched.
    pub(super) fn signal(&self, signal: Signal) {
        let child = match &*lock(&self.current) {
            Current::Nothing => None,
            Current::Launching { child, .. } => child.clone(),
            Current::Live(live) => Some(live.child.clone()),
        };
        if let Some(child) = child {
            child.signal(signal);
        }
    }

    /// The first generation is being launched.
    pub(super) fn set_launching(&self, inputs: mpsc::Sender<Input>, child: Option<Arc<Child>>) {
        *lock(&self.current) = Current::Launching { inputs, child };
    }

    /// How this generation is probed; `None` if no probe is configured.
    pub(super) fn probe(&self) -> Option<Probe> {
        let (target, timeout) = (self.settings.target.clone()?, self.settings.plan.probe?);
        Some(Probe { target, timeout, addresses: self.addresses(), preface: &[], is_steered: true })
    }

    /// Makes this generation the live one.
    pub(super) fn set_live(&self, live: Live, endpoint: LiveEndpoint) {
        *lock(&self.current) = Current::Live(live);
        self.live_endpoint.send_replace(endpoint);
    }

    /// Adds a leaving generation; if there are then more than [`MAX`], ends the oldest.
    pub(super) async fn leaves(&self, child: Arc<Child>, inputs: mpsc::Sender<Input>, gone: watch::Receiver<bool>) {
        let too_many: Vec<_> = {
            let mut leaving = lock(&self.leaving);
            leaving.retain(|one| !*one.gone.borrow());
            leaving.push(Leaving { child, inputs, gone });
            let excess = leaving.len().saturating_sub(MAX);
            leaving.iter().take(excess).map(|one| (one.child.clone(), one.inputs.clone())).collect()
        };
        for (child, inputs) in too_many {
            tracing::warn!(generation = %child.generation, pid = %child.pid, "{MAX} generations drain already, ending the oldest");
            let _ = inputs.send(Input::Rollout(RolloutEvent::ForceCloseRequested)).await;
        }
    }

    /// The generations that still finish their connections, oldest first.
    pub(super) fn draining(&self) -> Vec<Arc<Child>> {
        let mut leaving = lock(&self.leaving);
        leaving.retain(|one| !*one.gone.borrow());
        leaving.iter().map(|one| one.child.clone()).collect()
    }

    /// Waits until none of the draining generations is left. Cancel safe.
    pub(super) fn all_gone(&self) -> impl Future<Output = ()> + Send + use<> {
        let gone: Vec<_> = lock(&self.leaving).iter().map(|one| one.gone.clone()).collect();
        async move {
            for mut gone in gone {
                // An error means that the machine of the generation is gone.
                let _ = gone.wait_for(|gone| *gone).await;
            }
        }
    }

    /// Ends the drain of all draining generations.
    pub(super) fn force_close_draining(&self) {
        for one in lock(&self.leaving).iter() {
            let inputs = one.inputs.clone();
            tokio::spawn(async move { inputs.send(Input::Rollout(RolloutEvent::ForceCloseRequested)).await });
        }
    }
}

/// The endpoint for the control socket before the first generation is live: no machine receives its inputs.
pub(super) fn nobody() -> LiveEndpoint {
    let (inputs, _) = mpsc::channel(1);
    let (_, passed_on) = watch::channel(false);
    let counts = Counts::Watched(Arc::new(AtomicUsize::new(0)));
    LiveEndpoint { inputs, events: events(), counts, passed_on, looks: looks() }
}

pub(super) fn events() -> broadcast::Sender<Event> {
    broadcast::Sender::new(EVENTS)
}
