//! Starts one generation: binds, listens, reports that it is ready, and starts the driver.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::handover::ToBlue;
use super::host::{Host, Leadership};
use super::sockets::Sockets;
use super::{Server, Started, http, signals};
use crate::config::ControlSocket;
use crate::error::{Error, ErrorKind};
use crate::model::addresses::{Bound, Offer};
use crate::model::handover::History;
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::Rollout;
use crate::runtime::accept::{Acceptors, Room, Sink, Unbounded};
use crate::runtime::connections::Connections;
use crate::runtime::context::{Context, Parts};
use crate::runtime::control::{ControlTarget, Counts, LiveEndpoint, looks, metrics_service};
use crate::runtime::driver::Driver;
use crate::runtime::groups::{GroupListener, Groups, Steering, Table};
use crate::runtime::input::QUEUE;
use crate::runtime::notifier::{Notifier, NotifyState};
use crate::runtime::offload::attempts;
use crate::runtime::pid_file::PidFile;
use crate::runtime::predecessors::Predecessors;
use crate::runtime::probe::Probe;
use crate::runtime::role::{NOTIFY, Role};
use crate::runtime::service_manager::ServiceManager;
use crate::runtime::{group_watch, heartbeat, plan};

/// The variable that names the notification socket of the service manager (sd_notify(3)).
const MANAGER: &str = "NOTIFY_SOCKET";

/// Time beyond linger and drain that a next generation that was sent away may take before it is killed.
const RELEASE_MORE: Duration = Duration::from_secs(15);

/// A generation whose driver runs.
#[derive(Debug)]
pub(crate) struct Running {
    generation: Generation,
    connections: Arc<Connections>,
    gone: watch::Receiver<bool>,
}

impl Running {
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    pub(crate) async fn leaving(&self) {
        self.connections.leaving().await;
    }

    /// Waits until the driver has ended.
    pub(crate) async fn gone(mut self) {
        // An error means that the driver is gone without having reported its end, which is the same to the caller.
        let _ = self.gone.wait_for(|gone| *gone).await;
    }
}

/// A generation that listens, and has not been announced yet.
struct Begun {
    role: Role,
    addresses: Vec<Bound>,
    /// How many of `addresses` belong to the application; the others are for metrics.
    offered: usize,
    listeners: Vec<(SocketAddr, Vec<GroupListener>)>,
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::io(ErrorKind::System, what, error)
}

impl Server {
    pub(super) async fn start<R: Room>(mut self, sink: Sink, room: R) -> Result<Running, Error> {
        self.config.check()?;
        self.check_name()?;
        let (plan, target) = (plan::plan(&self.config)?, plan::target(&self.config)?);
        let early_hup = std::mem::replace(&mut self.early_hup, Err(std::io::ErrorKind::Other.into()));
        let early_hup = early_hup.map_err(system("cannot handle signals"))?;
        let role = Role::find(&self.launch);
        let supervised = matches!(role, Role::Supervised { .. });
        if supervised {
            self.leave_it_to_the_supervisor();
        }
        let sockets = self.bind_all(&role)?;
        let connections = self.connections();
        let passed_on = watch::Sender::new(false);
        let endpoint = LiveEndpoint {
            inputs: self.inputs.0.clone(),
            events: self.events.clone(),
            counts: Counts::Own(connections.clone()),
            passed_on: passed_on.subscribe(),
            looks: looks(),
        };
        let control_target = ControlTarget::of(endpoint);
        // The name is claimed before this process listens, so that a second instance with the same name takes nothing
        // from the first.
        let first = sockets.addresses.first().map(|address| address.bound);
        let (name, control) = self.control(&role, first, &control_target)?;
        let Begun { role, addresses, offered, listeners } = self.begin_to_listen(role, sockets)?;
        let generation = role.generation();
        let acceptors =
            self.accept(&listeners[..offered], &listeners[offered..], &connections, (sink, room), &control_target);
        let table = self.table(listeners, &role);
        let (inputs, received) = self.inputs;
        let (host_events, arriving) = mpsc::channel(QUEUE);
        signals::start(&early_hup, inputs.clone()).map_err(system("cannot handle signals"))?;
        group_watch::start(inputs.clone());
        let pid = Pid::new(std::process::id());
        let watchdog = heartbeat::watchdog(&self.launch, pid);
        heartbeat::start(inputs.clone(), watchdog);
        let (release, needs_steering) = (plan.linger + plan.drain + RELEASE_MORE, plan.needs_steering());
        let asked: Vec<SocketAddr> = addresses[..offered].iter().map(|address| address.bound).collect();
        let timeout = self.config.probe_timeout;
        let manager = Notifier::new(self.launch.variable(MANAGER));
        let blue_hears = Notifier::new(self.launch.variable(NOTIFY));
        let parent = role.manager(&self.launch);
        let (rollout, to_blue) = match role {
            Role::First | Role::Supervised { .. } | Role::Orphan { .. } => {
                (Rollout::serving(generation, pid, plan), None)
            }
            Role::Green { spawn_info, blue } => {
                let to_blue = ToBlue::start(blue, &spawn_info, host_events.clone());
                let to_blue = to_blue.map_err(system("cannot talk to the previous generation"))?;
                to_blue.listening(table.joined());
                (Rollout::standby(generation, pid, plan), Some(to_blue))
            }
        };
        let groups = Groups::new(table);
        let (events, attempts) = (self.events, attempts());
        let parts = Parts { generation, pid, groups, needs_steering, attempts, inputs, events, passed_on };
        let context = Context::new(parts);
        let mut host = Host {
            context,
            name,
            parent,
            launch: self.launch,
            addresses,
            offered,
            linger: self.config.linger,
            idle_grace: self.config.idle_grace,
            release,
            supervised,
            probe: target.map(|target| Probe { target, timeout, addresses: asked }),
            pid_file: self.config.pid_file.map(PidFile::new),
            control,
            before_reload: self.before_reload,
            connections: connections.clone(),
            acceptors: Some(acceptors),
            host_events,
            green: None,
            to_blue,
            predecessors: Predecessors::default(),
            history: History::default(),
            leadership: Leadership::Never,
            service_manager: ServiceManager::new(manager, watchdog),
            passing_on: None,
        };
        match host.to_blue {
            Some(_) => blue_hears.send(&[NotifyState::Ready]),
            None => {
                // A panic is logged, and leaves the groups to the kernel.
                let _ = host.context.groups.run(Table::steer_here).await;
                // Before READY=1 is sent: a process that waits for READY=1 may look for the files.
                host.take_files().await;
                host.take_leadership();
                host.has_files();
            }
        }
        let (ended, gone) = watch::channel(false);
        tokio::spawn(async move {
            Driver { rollout, host, inputs: received, host_events: arriving }.run().await;
            ended.send_replace(true);
        });
        Ok(Running { generation, connections, gone })
    }

    /// Leaves the control socket and the reloads to the supervisor.
    fn leave_it_to_the_supervisor(&mut self) {
        self.config.control = ControlSocket::Unwanted;
        self.before_reload =
            Some(Arc::new(|| Err("the server runs under `cutover run`, which does the reloads".to_owned())));
    }

    /// Binds the addresses of the application, followed by the addresses for metrics.
    fn bind_all(&self, role: &Role) -> Result<Sockets, Error> {
        let mut asked = Vec::new();
        for address in &self.addresses {
            asked.extend(resolved(address)?.iter().map(|address| (*address, Offer::Application)));
        }
        if let Some(address) = &self.config.metrics {
            asked.extend(resolved(address)?.iter().map(|address| (*address, Offer::Metrics)));
        }
        Sockets::bind(&asked, self.config.listeners_per_address, role)
    }

    /// Calls the application's `before_begin` hook, and listens.
    fn begin_to_listen(&mut self, role: Role, sockets: Sockets) -> Result<Begun, Error> {
        let (generation, pid) = (role.generation(), Pid::new(std::process::id()));
        let addresses = sockets.addresses.clone();
        let offered = addresses.iter().take_while(|address| address.offer == Offer::Application).count();
        let bound = |of: &[Bound]| of.iter().map(|address| address.bound).collect::<Vec<_>>();
        let (mine, metrics) = (bound(&addresses[..offered]), bound(&addresses[offered..]));
        if let Some(hook) = self.before_begin.take() {
            hook(&Started { addresses: mine.clone(), metrics: metrics.clone(), pid, generation });
        }
        let listeners = sockets.listen(self.config.backlog)?;
        for address in mine {
            tracing::info!(%generation, %pid, %address, name = self.config.name, "listening");
        }
        for address in metrics {
            tracing::info!(%generation, %pid, %address, "offering metrics");
        }
        Ok(Begun { role, addresses, offered, listeners })
    }

    /// Begins to accept connections.
    fn accept<R: Room>(
        &self,
        offered: &[(SocketAddr, Vec<GroupListener>)],
        metrics: &[(SocketAddr, Vec<GroupListener>)],
        connections: &Arc<Connections>,
        (sink, room): (Sink, R),
        control_target: &ControlTarget,
    ) -> Acceptors {
        let all = |of: &[(SocketAddr, Vec<GroupListener>)]| -> Vec<_> {
            of.iter().flat_map(|(_, own)| own.iter().filter_map(|o| o.listener().cloned())).collect()
        };
        let mut acceptors = Acceptors::new(connections);
        acceptors.open(&all(offered), &sink, &(connections.clone(), room));
        if !metrics.is_empty() {
            // Not subject to the limit of connections: when the limit is reached, metrics are what is needed.
            let sink = http::sink(metrics_service(control_target.clone()), &self.config);
            acceptors.open(&all(metrics), &sink, &Unbounded);
        }
        acceptors
    }

    fn table(&self, listeners: Vec<(SocketAddr, Vec<GroupListener>)>, role: &Role) -> Table {
        let steering = match role {
            Role::Supervised { .. } => Steering::Elsewhere,
            Role::First | Role::Orphan { .. } | Role::Green { .. } => Steering::of(&self.launch),
        };
        let mut table = Table::new(listeners, steering);
        match role {
            Role::First | Role::Supervised { .. } | Role::Orphan { .. } => {}
            Role::Green { .. } => table.forget_order(),
        }
        table
    }
}

fn resolved(address: &std::io::Result<Vec<SocketAddr>>) -> Result<&[SocketAddr], Error> {
    match address {
        Ok(resolved) if resolved.is_empty() => {
            Err(Error::new(ErrorKind::Address, "an address resolves to no IP address"))
        }
        Ok(resolved) => Ok(resolved),
        Err(error) => {
            let why = std::io::Error::new(error.kind(), error.to_string());
            Err(Error::io(ErrorKind::Address, "an address cannot be understood", why))
        }
    }
}
