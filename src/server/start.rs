//! Starts one generation: binds, listens, reports that it is ready, and starts the driver.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::handover::{Blue, Supply, ToBlue};
use super::host::{Host, Settings};
use super::passed::Passed;
use super::service::Same;
use super::sockets::Sockets;
use super::unix_listeners::{self, UnixListeners};
use super::{Server, Started, http, signals};
use crate::config::{ControlSocket, ProxyProtocol};
use crate::error::{Error, ErrorKind};
use crate::model::addresses::{Bound, Offer};
use crate::model::handover::Listening;
use crate::model::identity::{Generation, Pid};
use crate::model::probe::Target;
use crate::model::rollout::{Plan, Rollout};
use crate::model::unix_address::UnixAddress;
use crate::runtime::accept::{Acceptors, Room, Sink, Unbounded};
use crate::runtime::bind::ListenAddress;
use crate::runtime::connections::Connections;
use crate::runtime::context::{Context, Parts};
use crate::runtime::control::{ControlTarget, Counts, LiveEndpoint, looks, metrics_service};
use crate::runtime::driver::Driver;
use crate::runtime::groups::{GroupListener, Groups, Steering, Table};
use crate::runtime::input::QUEUE;
use crate::runtime::notifier::{Notifier, NotifyState};
use crate::runtime::offload::attempts;
use crate::runtime::pid_file::PidFile;
use crate::runtime::probe::Probe;
use crate::runtime::role::{NOTIFY, Role};
use crate::runtime::service_manager::ServiceManager;
use crate::runtime::{group_watch, heartbeat, plan};
use crate::sys::unix_listener::PASSED_MAX;

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
    /// Starts this generation. `prepare` makes the sink of its connections; an error of `prepare` is an error of the start.
    ///
    /// The reason of an error goes to the previous generation as well, which reports the reason as the outcome of the
    /// reload.
    pub(super) async fn start<R: Room>(
        mut self,
        prepare: impl FnOnce(&Server) -> Result<(Sink, R, Supply), Error>,
    ) -> Result<Running, Error> {
        let (role, mut blue) = self.take_role()?;
        let begun = match prepare(&self) {
            Ok((sink, room, supply)) => self.begin(role, &mut blue, (sink, room), supply).await,
            Err(error) => Err(error),
        };
        if let (Err(error), Some(blue)) = (&begun, blue) {
            let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
            blue.tell_failure(format!("{error}{cause}")).await;
        }
        begun
    }

    /// The role of this process, with the connection to the generation before it.
    pub(super) fn take_role(&mut self) -> Result<(Role, Option<Blue>), Error> {
        if let Some(known) = self.role.take() {
            return Ok(known);
        }
        let (role, blue) = Role::find(&self.launch);
        let blue = blue.map(Blue::new).transpose().map_err(system("cannot talk to the previous generation"))?;
        Ok((role, blue))
    }

    async fn begin<R: Room>(
        mut self,
        role: Role,
        blue: &mut Option<Blue>,
        (sink, room): (Sink, R),
        mut supply: Supply,
    ) -> Result<Running, Error> {
        self.config.check()?;
        self.check_name()?;
        let (plan, target) = (plan::plan(&self.config)?, plan::target(&self.config)?);
        let early_hup = std::mem::replace(&mut self.early_hup, Err(std::io::ErrorKind::Other.into()));
        let early_hup = early_hup.map_err(system("cannot handle signals"))?;
        #[cfg(feature = "tls")]
        if let (Some(blue), Some(tickets)) = (blue.as_mut(), &supply.tickets) {
            match blue.tickets().await {
                Some(keys) => tickets.inherit(keys),
                None => {
                    tracing::warn!("the previous generation did not pass on the keys of its session tickets, ignoring")
                }
            }
        }
        if matches!(role, Role::Supervised { .. }) {
            self.leave_it_to_the_supervisor();
        }
        let sockets = self.bind_all(&role)?;
        let (connections, passed_on) = (self.connections(), watch::Sender::new(false));
        let control_target = self.control_target(&connections, &passed_on);
        // The name is claimed before this process listens, so that a second instance with the same name takes nothing
        // from the first.
        let unix = self.unix_addresses()?;
        if target.is_some() && !sockets.addresses.iter().any(|address| address.offer == Offer::Application) {
            let why = "a probe needs an address with a port, and the server listens on Unix sockets only";
            return Err(Error::new(ErrorKind::Config, why));
        }
        let first = sockets.addresses.first().map(|address| address.bound.to_string());
        let first = first.or_else(|| unix.first().map(UnixAddress::instance_name));
        let (name, control) = self.control(&role, first, &control_target)?;
        let begun = self.begin_to_listen(role, sockets, &unix)?;
        let (access, backlog) = (self.config.unix_access, self.config.backlog);
        supply.listeners = Passed::new(match begun.role {
            Role::Supervised { .. } => unix_listeners::lent(&unix)?,
            Role::First | Role::Green { .. } | Role::Orphan { .. } => {
                unix_listeners::listen(&unix, &access, backlog, blue.as_mut()).await?
            }
        });
        let acceptors = self.accept(&begun, &connections, (sink.clone(), room.clone()), &control_target);
        let unix = accept_on_unix(&supply.listeners, &connections, sink, room);
        signals::start(&early_hup, self.inputs.0.clone()).map_err(system("cannot handle signals"))?;
        let service_manager = self.begin_heartbeat();
        let settings = self.host_settings(name, &begun, &plan, target, supply);
        let blue_hears = Notifier::new(self.launch.variable(NOTIFY));

        let Begun { role, listeners, .. } = begun;
        let table = self.table(listeners, &role);
        let (host_events, arriving) = mpsc::channel(QUEUE);
        let (generation, pid, needs_steering) = (role.generation(), own_pid(), plan.needs_steering());
        let (rollout, to_blue) = match blue.take().zip(role.spawn_info()) {
            None => (Rollout::serving(generation, pid, plan), None),
            Some((blue, spawn_info)) => {
                let to_blue = ToBlue::start(blue, spawn_info, host_events.clone());
                to_blue.listening(Listening { addresses: settings.addresses.clone(), groups: table.joined() });
                (Rollout::standby(generation, pid, plan), Some(to_blue))
            }
        };
        let (inputs, received) = self.inputs;
        let (groups, attempts, events) = (Groups::new(table), attempts(), self.events);
        let parts = Parts { generation, pid, groups, needs_steering, attempts, inputs, events, passed_on };
        let mut host = Host::new(Context::new(parts), settings, connections.clone(), host_events, service_manager);
        (host.acceptors, host.control, host.to_blue) = (Some(acceptors), control, to_blue);
        host.unix = Some(unix);
        host.pid_file = self.config.pid_file.map(PidFile::new);
        match host.to_blue {
            Some(_) => blue_hears.send(&[NotifyState::Ready]),
            None => host.begin_alone().await,
        }
        let (ended, gone) = watch::channel(false);
        tokio::spawn(async move {
            Driver { rollout, host, inputs: received, host_events: arriving }.run().await;
            ended.send_replace(true);
        });
        Ok(Running { generation, connections, gone })
    }

    /// What the control socket asks.
    fn control_target(&self, connections: &Arc<Connections>, passed_on: &watch::Sender<bool>) -> ControlTarget {
        ControlTarget::of(LiveEndpoint {
            inputs: self.inputs.0.clone(),
            events: self.events.clone(),
            counts: Counts::Own(connections.clone()),
            passed_on: passed_on.subscribe(),
            looks: looks(),
        })
    }

    /// Begins the heartbeats and the looks for strangers.
    fn begin_heartbeat(&self) -> ServiceManager {
        let watchdog = heartbeat::watchdog(&self.launch, own_pid());
        heartbeat::start(self.inputs.0.clone(), watchdog);
        group_watch::start(self.inputs.0.clone());
        ServiceManager::new(Notifier::new(self.launch.variable(MANAGER)), watchdog)
    }

    fn host_settings(
        &self,
        name: String,
        begun: &Begun,
        plan: &Plan,
        target: Option<Target>,
        supply: Supply,
    ) -> Settings {
        let addresses = begun.addresses[..begun.offered].iter().map(|address| address.bound).collect();
        let timeout = self.config.probe_timeout;
        let preface = match self.config.proxy_protocol {
            ProxyProtocol::Off => &[][..],
            ProxyProtocol::Required => b"PROXY UNKNOWN\r\n",
        };
        Settings {
            name,
            parent: begun.role.manager(&self.launch),
            launch: self.launch.clone(),
            addresses: begun.addresses.clone(),
            offered: begun.offered,
            linger: self.config.linger,
            idle_grace: self.config.idle_grace,
            release: plan.linger + plan.drain + RELEASE_MORE,
            supervised: matches!(begun.role, Role::Supervised { .. }),
            probe: target.map(|target| Probe { target, timeout, addresses, preface, is_steered: true }),
            before_reload: self.before_reload.clone(),
            supply,
        }
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
            asked.extend(resolved(address)?.iter().filter_map(|address| match address {
                ListenAddress::Inet(address) => Some((*address, Offer::Application)),
                ListenAddress::Unix(_) => None,
            }));
        }
        if let Some(address) = &self.config.metrics {
            asked.extend(resolved(address)?.iter().map(|address| (*address, Offer::Metrics)));
        }
        Sockets::bind(&asked, self.config.listeners_per_address, role)
    }

    /// The Unix sockets of the application.
    fn unix_addresses(&self) -> Result<Vec<UnixAddress>, Error> {
        let mut asked = Vec::new();
        for address in &self.addresses {
            asked.extend(resolved(address)?.iter().filter_map(|address| match address {
                ListenAddress::Inet(_) => None,
                ListenAddress::Unix(address) => Some(address.clone()),
            }));
        }
        if asked.len() > PASSED_MAX {
            let why = format!("{} Unix sockets; at most {PASSED_MAX} go to the next generation", asked.len());
            return Err(Error::new(ErrorKind::Config, why));
        }
        Ok(asked)
    }

    /// Calls the application's `before_begin` hook, and listens.
    fn begin_to_listen(&mut self, role: Role, sockets: Sockets, unix: &[UnixAddress]) -> Result<Begun, Error> {
        let (generation, pid) = (role.generation(), own_pid());
        let addresses = sockets.addresses.clone();
        let offered = addresses.iter().take_while(|address| address.offer == Offer::Application).count();
        let bound = |of: &[Bound]| of.iter().map(|address| address.bound).collect::<Vec<_>>();
        let (mine, metrics) = (bound(&addresses[..offered]), bound(&addresses[offered..]));
        if let Some(hook) = self.before_begin.take() {
            let unix = unix.iter().map(UnixAddress::to_string).collect();
            hook(&Started { addresses: mine.clone(), unix, metrics: metrics.clone(), pid, generation });
        }
        let listeners = sockets.listen(self.config.backlog)?;
        for address in mine {
            tracing::info!(%generation, %pid, %address, name = self.config.name, "listening");
        }
        for address in unix {
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
        begun: &Begun,
        connections: &Arc<Connections>,
        (sink, room): (Sink, R),
        control_target: &ControlTarget,
    ) -> Acceptors {
        let all = |of: &[(SocketAddr, Vec<GroupListener>)]| -> Vec<_> {
            of.iter().flat_map(|(_, own)| own.iter().filter_map(|o| o.listener().cloned())).collect()
        };
        let (offered, metrics) = begun.listeners.split_at(begun.offered);
        let mut acceptors = Acceptors::new(connections);
        acceptors.open(&all(offered), &sink, &(connections.clone(), room));
        if !metrics.is_empty() {
            // Not subject to the limit of connections: when the limit is reached, metrics are what is needed.
            let service = Same(metrics_service(control_target.clone()));
            let sink = http::uncounted(service, &self.config);
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

/// The listeners on Unix sockets. Those of the previous generation do not accept yet.
fn accept_on_unix<R: Room>(listeners: &Passed, connections: &Arc<Connections>, sink: Sink, room: R) -> UnixListeners {
    let room = (connections.clone(), room);
    let open = move |acceptors: &mut Acceptors, all: &[_]| acceptors.open(all, &sink, &room);
    UnixListeners::new(listeners.clone(), connections, Box::new(open))
}

fn own_pid() -> Pid {
    Pid::new(std::process::id())
}

fn resolved<T>(address: &std::io::Result<Vec<T>>) -> Result<&[T], Error> {
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
