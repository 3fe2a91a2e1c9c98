//! The public type of the library: a server that restarts itself.

mod acceptor;
pub(crate) mod connection_info;
mod control;
pub(crate) mod drain;
pub(crate) mod events;
pub(crate) mod fail_start;
mod green;
pub(crate) mod handle;
mod handover;
mod host;
pub(crate) mod http;
pub(crate) mod inherit;
mod layers;
pub(crate) mod listener;
mod options;
mod passed;
mod serve;
mod service;
mod signals;
mod sockets;
mod start;
mod state;
#[cfg(feature = "tls")]
pub(crate) mod tls;
mod transport;
pub(crate) mod unix_listeners;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, watch};

use crate::config::Config;
use crate::model::event::Event;
use crate::model::identity::{Generation, Pid};
use crate::runtime::bind::{self, BindAddress, ListenAddress};
use crate::runtime::connections::{Connections, Stage};
use crate::runtime::input::{Input, QUEUE};
use crate::runtime::role::Role;
use crate::sys::launch::Launch;
use crate::sys::limits;

use self::acceptor::OwnAcceptor;
use self::drain::Drain;
use self::events::Events;
use self::handle::Handle;
use self::handover::Blue;
use self::host::BeforeReload;
use self::http::Builders;
use self::signals::EarlyHup;
use self::state::StateHook;
#[cfg(feature = "tls")]
use self::tls::TlsConfig;

type BeforeBegin = Box<dyn FnOnce(&Started) + Send>;

/// Capacity of the event channel: how many events a slow reader may fall behind before it misses the oldest.
const EVENTS: usize = 256;

/// Facts about a server whose addresses are bound and that accepts no connections yet: the argument of the hook of
/// [`before_begin`](Server::before_begin).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Started {
    /// The addresses of the application, with the actual ports where port 0 was requested.
    pub addresses: Vec<SocketAddr>,
    /// The Unix sockets of the application: `unix:/path` or `unix:@name`.
    pub unix: Vec<String>,
    /// The addresses on which metrics are served, with the actual ports.
    pub metrics: Vec<SocketAddr>,
    /// The process ID of this process.
    pub pid: Pid,
    /// The number of this generation.
    pub generation: Generation,
}

/// A server that restarts itself on SIGHUP without losing a request.
///
/// Create the server at the very beginning of `main`. From then on a SIGHUP does not kill the process, and the
/// arguments, the environment and the working directory of the process are remembered for the next generation. Create
/// one server per process: a server may have many addresses, but a second server would receive the same signals.
///
/// The server logs with [`tracing`](https://docs.rs/tracing), on the threads of the runtime. A subscriber that writes
/// to stderr blocks these threads while stderr is not read: give the subscriber a [`LogWriter`](crate::LogWriter).
///
/// ```no_run
/// # async fn example() -> Result<(), cutover::Error> {
/// let server = cutover::Server::bind("127.0.0.1:0")
///     .ready_timeout(std::time::Duration::from_secs(10))
///     .before_begin(|started| println!("http://{} pid {}", started.addresses[0], started.pid));
/// server.serve(axum::Router::new()).await
/// # }
/// ```
#[must_use = "a server does nothing before serve or listen"]
pub struct Server {
    addresses: Vec<io::Result<Vec<ListenAddress>>>,
    config: Config,
    launch: Arc<Launch>,
    early_hup: io::Result<EarlyHup>,
    before_begin: Option<BeforeBegin>,
    before_reload: Option<BeforeReload>,
    acceptor: Option<OwnAcceptor>,
    state: Option<StateHook>,
    builders: Builders,
    /// The role of this process, if it was needed before the start.
    role: Option<(Role, Option<Blue>)>,
    #[cfg(feature = "tls")]
    tls: Option<TlsConfig>,
    events: broadcast::Sender<Event>,
    stage: watch::Sender<Stage>,
    inputs: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
}

impl Server {
    /// Creates a server for this address: `"127.0.0.1:8080"`, `"[::]:80"` (which accepts IPv4 as well),
    /// `"localhost:0"`, or the Unix socket `"unix:/run/app.sock"` or `"unix:@name"`.
    ///
    /// Port 0 lets the system choose a port, which is kept through restarts. An address that cannot be parsed or
    /// resolved is an error of [`serve`](Server::serve) or [`listen`](Server::listen).
    pub fn bind(address: impl BindAddress) -> Server {
        let server = Server {
            addresses: Vec::new(),
            config: Config::default(),
            launch: Arc::new(Launch::capture()),
            early_hup: EarlyHup::remember(),
            before_begin: None,
            before_reload: None,
            acceptor: None,
            state: None,
            builders: Builders::default(),
            role: None,
            #[cfg(feature = "tls")]
            tls: None,
            events: broadcast::Sender::new(EVENTS),
            stage: watch::Sender::new(Stage::Serving),
            inputs: mpsc::channel(QUEUE),
        };
        server.and_bind(address)
    }

    /// Adds an address, in the forms that [`bind`](Server::bind) takes.
    pub fn and_bind(mut self, address: impl BindAddress) -> Server {
        self.addresses.push(bind::resolve(address));
        self
    }

    /// Sets a hook that is called when the addresses are bound, before any connection is accepted. Default: no hook.
    ///
    /// The hook runs on the task that calls [`serve`](Server::serve) or [`listen`](Server::listen). If the hook of a
    /// new generation does not return, that generation misses the [`ready_timeout`](Server::ready_timeout), and the
    /// previous generation continues to serve.
    pub fn before_begin(mut self, hook: impl FnOnce(&Started) + Send + 'static) -> Server {
        self.before_begin = Some(Box::new(hook));
        self
    }

    /// Sets a hook that is called before each reload. If the hook returns an error, the reload is refused and this
    /// generation continues to serve. Default: no hook.
    ///
    /// The hook runs on a thread of its own and may block. If the hook has not returned after the
    /// [`ready_timeout`](Server::ready_timeout), the reload is refused and the thread is left running.
    pub fn before_reload<E: fmt::Display>(
        mut self,
        hook: impl Fn() -> Result<(), E> + Send + Sync + 'static,
    ) -> Server {
        self.before_reload = Some(Arc::new(move || hook().map_err(|why| why.to_string())));
        self
    }

    /// Subscribes to the events of this generation. The stream begins with the first event after this call.
    pub fn events(&self) -> Events {
        Events::new(self.events.subscribe())
    }

    /// Returns a handle by which the application requests a reload, a promotion, a rollback or a stop.
    pub fn handle(&self) -> Handle {
        Handle::new(self.inputs.0.clone())
    }

    /// Returns a [`Drain`], which tells the handlers of long-lived connections, such as WebSockets, when to say
    /// goodbye.
    pub fn drain(&self) -> Drain {
        Drain::new(self.stage.subscribe())
    }

    fn connections(&self) -> Arc<Connections> {
        let limit = self.config.max_connections.unwrap_or_else(limits::connections_by_descriptors);
        Connections::at(self.stage.clone(), limit)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.addresses)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
