//! What can be set.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use super::Server;
use crate::config::ControlSocket;
use crate::model::share::Share;

impl Server {
    /// The name of this instance: in messages, and for `cutover reload --name`. Letters, digits and `._:@[]-`, at most 64.
    /// Default: its first address.
    ///
    /// Two living instances with one name are refused, by [`ErrorKind::AlreadyRunning`](crate::ErrorKind).
    pub fn name(mut self, name: impl Into<String>) -> Server {
        self.config.name = Some(name.into());
        self
    }

    /// A file that always names the process of the live generation. Default: none.
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Server {
        self.config.pid_file = Some(path.into());
        self
    }

    /// No control socket: then only signals and the [`Handle`](crate::Handle) reach the server. Default: there is one, for
    /// the user of this process and root, in `$RUNTIME_DIRECTORY`, or `/run/cutover` (root), or `$XDG_RUNTIME_DIR/cutover`.
    pub fn without_control(mut self) -> Server {
        self.config.control = ControlSocket::Unwanted;
        self
    }

    /// Offers `GET /metrics` on this address, in the text format of OpenMetrics. It moves from generation to generation
    /// as every address does. Default: only on the control socket.
    #[expect(
        clippy::disallowed_methods,
        reason = "names are resolved before the server begins, and signals end the process as ever"
    )]
    pub fn metrics(mut self, address: impl ToSocketAddrs) -> Server {
        self.config.metrics = Some(address.to_socket_addrs().map(Iterator::collect));
        self
    }

    /// Asks each next generation before any user gets to it: `"/healthz"`, `"https:/healthz"` or
    /// `"https://name/healthz"`. Default: no probe.
    ///
    /// The request comes through the real address, by a source port of its own. An answer of 2xx or 3xx passes; it is
    /// tried again until [`probe_timeout`](Server::probe_timeout), and if none passes, this generation serves on. During
    /// canary and soak the probe is repeated. A path alone is asked in plain HTTP and, if that is not answered, in TLS
    /// (feature `tls`), whose certificate is not verified: that the next generation answers is known by the steering.
    pub fn probe(mut self, target: impl Into<String>) -> Server {
        self.config.probe = Some(target.into());
        self
    }

    /// How long the next generation is asked before the probe counts as failed. Default: 5 s.
    pub fn probe_timeout(mut self, timeout: Duration) -> Server {
        self.config.probe_timeout = timeout;
        self
    }

    /// One more step of a canary: this share of the new connections goes to the next generation, for this time.
    /// Default: no canary.
    ///
    /// If in that time the next generation dies, fails the probe, or a rollback is asked for, everything comes back to
    /// this one, and the next generation finishes what it has.
    pub fn canary_step(mut self, share: Share, time: Duration) -> Server {
        self.config.canary.push((share, time));
        self
    }

    /// How long this generation keeps its listeners after all new connections went to the next one, ready to have them
    /// back at once. Default: zero, no soak.
    pub fn soak(mut self, time: Duration) -> Server {
        self.config.soak = time;
        self
    }

    /// How long the next generation may take to become ready, before it is killed and this one serves on. Default: 30 s.
    pub fn ready_timeout(mut self, timeout: Duration) -> Server {
        self.config.ready_timeout = timeout;
        self
    }

    /// How long a retiring generation waits for handshakes in flight. Default: 5 s.
    ///
    /// It waits only as long as there are any that were in flight when new connections were moved away. Zero closes at
    /// once, and **loses** what waits.
    pub fn linger(mut self, linger: Duration) -> Server {
        self.config.linger = linger;
        self
    }

    /// How long a kept-alive connection of a retiring generation may be idle before it is closed. Default: 10 s.
    ///
    /// The closes are spread over a quarter of this time more, so that clients do not all come back at once.
    ///
    /// A connection on which a part of a request's header has come, and be it one byte, is not idle: it is closed when
    /// nothing more of the header has come for this time, or for a quarter more, counted from the last byte, but not from
    /// before the generation retired or stopped. [`header_read_timeout`](Server::header_read_timeout) bounds it as well.
    pub fn idle_grace(mut self, grace: Duration) -> Server {
        self.config.idle_grace = grace;
        self
    }

    /// How long a retiring generation may take to finish its connections, before it closes what is left. Default: 60 s.
    ///
    /// Connections of HTTP are closed at once then, with a request half sent or an answer half given. Upgraded connections
    /// and plain TCP have one second more, in which their handlers, told by a [`Drain`](crate::Drain), can say goodbye.
    pub fn drain_timeout(mut self, timeout: Duration) -> Server {
        self.config.drain_timeout = timeout;
        self
    }

    /// How long a client of HTTP/1 may take to send the header of a request, from the end of the last answer on. Default:
    /// 30 s. The connection is closed then, or up to a quarter of this time later. For a client that has not shown yet which
    /// HTTP it speaks the same holds from the beginning of the connection on.
    pub fn header_read_timeout(mut self, timeout: Duration) -> Server {
        self.config.header_read_timeout = timeout;
        self
    }

    /// Whether a client of HTTP/1 that has sent a request and shut down its writing side (shutdown(2); `nc -N`, and the
    /// checks of some load balancers) gets its answer. Default: true.
    ///
    /// Such a client looks like one that has left. So the price is that a handler whose client has left is not cancelled: it
    /// runs to its end, and what it may cost until then, it costs; an answer in parts ends when a part cannot be sent. With
    /// false the handler's future is dropped as soon as the client's side is closed, and no answer is sent. An idle
    /// connection is closed at once by either.
    pub fn half_close(mut self, answer: bool) -> Server {
        self.config.half_close = answer;
        self
    }

    /// The largest header of a request, in bytes; a larger one gets status 431. Default: 65,536. Least: 8,192.
    pub fn max_header_size(mut self, bytes: usize) -> Server {
        self.config.max_header_size = bytes;
        self
    }

    /// How many connections may be open at once; more wait in the kernel's queue. Default: the limit of descriptors
    /// (RLIMIT_NOFILE) less 64.
    pub fn max_connections(mut self, limit: usize) -> Server {
        self.config.max_connections = Some(limit);
        self
    }

    /// How many connections may wait in the kernel's accept queue of one listener; the kernel cuts it to
    /// `net.core.somaxconn`. Default: 4096.
    pub fn backlog(mut self, connections: u32) -> Server {
        self.config.backlog = connections;
        self
    }

    /// How many listening sockets each address has, 1 to 256. Default: 1, which is right unless one accept queue is too
    /// slow for your machine.
    pub fn listeners_per_address(mut self, listeners: usize) -> Server {
        self.config.listeners_per_address = listeners;
        self
    }
}
