//! Brings one generation up: binds, listens, says that it is ready, and sets the driver going.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::sockets::Sockets;
use super::{Begin, Server};
use crate::config::Config;
use crate::error::{Error, ErrorKind};
use crate::model::addresses::Bound;
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::{Rollout, Times};
use crate::runtime::accept::{Acceptors, Room, Sink};
use crate::runtime::birth::{MANAGER, Role};
use crate::runtime::connections::Connections;
use crate::runtime::driver::Driver;
use crate::runtime::effects::Host;
use crate::runtime::groups::{Groups, Own, Steering};
use crate::runtime::handover::ToBlue;
use crate::runtime::predecessors::Predecessors;
use crate::runtime::retire::lock;
use crate::runtime::service_manager::{Notifier, NotifyState};
use crate::runtime::{signals, watch_groups};

/// The variable that turns steering off (`off`), for tests.
const STEERING: &str = "CUTOVER_STEERING";

/// Where whoever started this process wants to hear READY=1 (sd_notify(3)).
const OF_STARTER: &str = "NOTIFY_SOCKET";

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
        // An error means that the driver is gone without a word, which is the same to the caller.
        let _ = self.gone.wait_for(|gone| *gone).await;
    }
}

/// A generation that listens, and of which nobody knows yet.
struct Begun {
    role: Role,
    addresses: Vec<Bound>,
    listeners: Vec<(SocketAddr, Vec<Own>)>,
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::io(ErrorKind::System, what, error)
}

impl Server {
    pub(super) async fn start<R: Room>(mut self, sink: Sink, room: R) -> Result<Running, Error> {
        self.config.check()?;
        let early_hup = std::mem::replace(&mut self.early_hup, Err(std::io::ErrorKind::Other.into()));
        let early_hup = early_hup.map_err(system("cannot handle signals"))?;
        let Begun { role, addresses, listeners } = self.begin()?;
        let generation = role.generation();
        let all: Vec<_> = listeners.iter().flat_map(|(_, own)| own.iter().map(|o| o.listener.clone())).collect();
        let groups = self.groups(listeners, &role);
        let connections = self.connections();
        let acceptors = Acceptors::start(&all, &connections, &sink, room);
        let (inputs, received) = self.inputs;
        signals::start(&early_hup, inputs.clone()).map_err(system("cannot handle signals"))?;
        watch_groups::start(inputs.clone());

        let Config { ready_timeout: ready, linger, drain_timeout: drain, .. } = self.config;
        let times = Times { ready, linger, drain };
        // The starter of a first generation is the service manager; that of any other is the generation before.
        let starter = Notifier::new(self.origin.variable(OF_STARTER));
        let (rollout, manager, to_blue) = match role {
            Role::First => (Rollout::serving(generation, times), starter.clone(), None),
            Role::Orphan { .. } => {
                (Rollout::serving(generation, times), Notifier::new(self.origin.variable(MANAGER)), None)
            }
            Role::Green { birth, blue } => {
                let to_blue = ToBlue::start(blue, birth.blue, inputs.clone());
                let to_blue = to_blue.map_err(system("cannot talk to the generation before"))?;
                to_blue.listening(groups.joined());
                (Rollout::standby(generation, times), Notifier::new(self.origin.variable(MANAGER)), Some(to_blue))
            }
        };
        let host = Host {
            generation,
            origin: self.origin,
            addresses,
            linger,
            idle_grace: self.config.idle_grace,
            pid_file: self.config.pid_file,
            before_reload: self.before_reload,
            groups: Arc::new(Mutex::new(groups)),
            connections: connections.clone(),
            acceptors: Some(acceptors),
            inputs,
            green: None,
            to_blue,
            predecessors: Predecessors::default(),
            manager,
            events: self.events,
            close_now: watch::Sender::new(false),
        };
        match host.to_blue {
            Some(_) => starter.send(&[NotifyState::Ready]),
            None => {
                lock(&host.groups).gate();
                host.become_live();
            }
        }
        let (ended, gone) = watch::channel(false);
        tokio::spawn(async move {
            Driver { rollout, host, inputs: received }.run().await;
            ended.send_replace(true);
        });
        Ok(Running { generation, connections, gone })
    }

    /// Binds, asks the application, and listens.
    fn begin(&mut self) -> Result<Begun, Error> {
        let role = Role::find(&self.origin);
        let (generation, pid) = (role.generation(), Pid::new(std::process::id()));
        let sockets = Sockets::bind(&self.resolve()?, self.config.listeners_per_address, &role)?;
        let addresses = sockets.addresses.clone();
        if let Some(hook) = self.before_begin.take() {
            hook(&Begin { addresses: addresses.iter().map(|a| a.bound).collect(), pid, generation });
        }
        let listeners = sockets.listen(self.config.backlog)?;
        for (address, _) in &listeners {
            tracing::info!(%generation, %pid, %address, name = self.config.name, "listening");
        }
        Ok(Begun { role, addresses, listeners })
    }

    fn resolve(&self) -> Result<Vec<SocketAddr>, Error> {
        let mut all = Vec::new();
        for address in &self.addresses {
            match address {
                Ok(resolved) if resolved.is_empty() => {
                    return Err(Error::new(ErrorKind::Address, "an address that has no IP address"));
                }
                Ok(resolved) => all.extend_from_slice(resolved),
                Err(error) => {
                    let why = std::io::Error::new(error.kind(), error.to_string());
                    return Err(Error::io(ErrorKind::Address, "an address cannot be understood", why));
                }
            }
        }
        Ok(all)
    }

    fn groups(&self, listeners: Vec<(SocketAddr, Vec<Own>)>, role: &Role) -> Groups {
        let off = self.origin.variable(STEERING).is_some_and(|value| value == "off");
        let mut groups = Groups::new(listeners, if off { Steering::Off } else { Steering::Allowed });
        match role {
            Role::First | Role::Orphan { .. } => {}
            Role::Green { .. } => groups.forget_order(),
        }
        groups
    }
}
