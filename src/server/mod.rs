//! The library's face: a server that restarts itself.

mod connection_close;
mod control;
pub(crate) mod drain;
pub(crate) mod events;
mod green;
pub(crate) mod handle;
mod handover;
mod host;
pub(crate) mod http;
mod http_version;
pub(crate) mod listener;
mod options;
mod serve;
mod signals;
mod sockets;
mod start;

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, watch};

use crate::config::Config;
use crate::model::event::Event;
use crate::model::identity::{Generation, Pid};
use crate::runtime::connections::{Connections, Stage};
use crate::runtime::driver::{Input, QUEUE};
use crate::sys::launch::Launch;
use crate::sys::limits;

use self::drain::Drain;
use self::events::Events;
use self::handle::Handle;
use self::host::BeforeReload;
use self::signals::EarlyHup;

type OnStart = Box<dyn FnOnce(&Started) + Send>;

/// How many events a slow reader may fall behind.
const EVENTS: usize = 256;

/// What is known when a server is about to begin: it is bound, and takes no connection yet.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Started {
    /// The addresses, with the real ports where 0 was asked for.
    pub addresses: Vec<SocketAddr>,
    /// Where metrics are offered.
    pub metrics: Vec<SocketAddr>,
    /// This process.
    pub pid: Pid,
    /// This generation.
    pub generation: Generation,
}

/// A server that restarts itself on SIGHUP, and loses nothing.
///
/// Make it at the very beginning of `main`: from then on a SIGHUP does not kill the process, and what the process was
/// started with (arguments, environment, directory) is remembered for the next generation. One server a process: it may
/// have many addresses, but a second one would hear the same signals.
///
/// The server logs by [`tracing`](https://docs.rs/tracing), on the threads of the runtime. A subscriber that writes to stderr
/// stops them when nobody reads stderr: give the subscriber a [`LogWriter`](crate::LogWriter).
///
/// ```no_run
/// # async fn example() -> Result<(), cutover::Error> {
/// let server = cutover::Server::bind("127.0.0.1:0")
///     .ready_timeout(std::time::Duration::from_secs(10))
///     .on_start(|started| println!("http://{} pid {}", started.addresses[0], started.pid));
/// server.serve(axum::Router::new()).await
/// # }
/// ```
#[must_use = "a server does nothing before serve or listen"]
pub struct Server {
    addresses: Vec<io::Result<Vec<SocketAddr>>>,
    config: Config,
    launch: Arc<Launch>,
    early_hup: io::Result<EarlyHup>,
    on_start: Option<OnStart>,
    before_reload: Option<BeforeReload>,
    events: broadcast::Sender<Event>,
    stage: watch::Sender<Stage>,
    inputs: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
}

impl Server {
    /// A server on this address: `"127.0.0.1:8080"`, `"[::]:80"` (which takes IPv4 too), `"localhost:0"`.
    ///
    /// Port 0 lets the system choose a port, which is kept through restarts. An address that cannot be understood is told
    /// by [`serve`](Server::serve) or [`listen`](Server::listen).
    pub fn bind(address: impl ToSocketAddrs) -> Server {
        let server = Server {
            addresses: Vec::new(),
            config: Config::default(),
            launch: Arc::new(Launch::capture()),
            early_hup: EarlyHup::remember(),
            on_start: None,
            before_reload: None,
            events: broadcast::Sender::new(EVENTS),
            stage: watch::Sender::new(Stage::Serving),
            inputs: mpsc::channel(QUEUE),
        };
        server.and_bind(address)
    }

    /// One more address.
    #[expect(
        clippy::disallowed_methods,
        reason = "names are resolved before the server begins, and signals end the process as ever"
    )]
    pub fn and_bind(mut self, address: impl ToSocketAddrs) -> Server {
        self.addresses.push(address.to_socket_addrs().map(Iterator::collect));
        self
    }

    /// Called when the addresses are bound, before any connection is taken.
    ///
    /// The hook runs on the task that calls [`serve`](Server::serve) or [`listen`](Server::listen). A hook that does not return
    /// makes a next generation miss the [`ready_timeout`](Server::ready_timeout), and the generation before serves on.
    pub fn on_start(mut self, hook: impl FnOnce(&Started) + Send + 'static) -> Server {
        self.on_start = Some(Box::new(hook));
        self
    }

    /// Called before each reload; an error refuses it, and this generation serves on.
    ///
    /// The hook runs on a thread of its own and may block: after the [`ready_timeout`](Server::ready_timeout) the reload is
    /// refused, and the thread is left to itself.
    pub fn before_reload<E: fmt::Display>(
        mut self,
        hook: impl Fn() -> Result<(), E> + Send + Sync + 'static,
    ) -> Server {
        self.before_reload = Some(Arc::new(move || hook().map_err(|why| why.to_string())));
        self
    }

    /// The stream of what happens to this generation.
    pub fn events(&self) -> Events {
        Events::new(self.events.subscribe())
    }

    /// A handle to ask for a reload or a stop from within the application.
    pub fn handle(&self) -> Handle {
        Handle::new(self.inputs.0.clone())
    }

    /// Tells handlers of long connections, such as WebSockets, when to say goodbye.
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
