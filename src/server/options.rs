//! The options of a server.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use hyper::server::conn::http1;

use super::Server;
use super::http::Http2Builder;
use crate::config::{ControlSocket, ProxyProtocol};
use crate::model::share::Share;

impl Server {
    /// Sets the name of this instance, which is used in messages and by `cutover reload --name`: letters, digits and
    /// `._:@[]-`, at most 64 characters. Default: its first address.
    ///
    /// A second running instance with the same name is refused with [`ErrorKind::AlreadyRunning`](crate::ErrorKind).
    pub fn name(mut self, name: impl Into<String>) -> Server {
        self.config.name = Some(name.into());
        self
    }

    /// Sets the PID file, which always names the process of the live generation. Default: none.
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Server {
        self.config.pid_file = Some(path.into());
        self
    }

    /// Disables the control socket: only signals and the [`Handle`](crate::Handle) then reach the server. Default:
    /// there is one, for the user of this process and root, in `$RUNTIME_DIRECTORY`, or `/run/cutover` (root), or
    /// `$XDG_RUNTIME_DIR/cutover`.
    pub fn without_control(mut self) -> Server {
        self.config.control = ControlSocket::Unwanted;
        self
    }

    /// Serves `GET /metrics` on this address, in the text format of OpenMetrics. Like every address of the server, this
    /// address moves from generation to generation. Default: only on the control socket.
    #[expect(
        clippy::disallowed_methods,
        reason = "names are resolved before the server begins, and signals end the process as ever"
    )]
    pub fn metrics(mut self, address: impl ToSocketAddrs) -> Server {
        self.config.metrics = Some(address.to_socket_addrs().map(Iterator::collect));
        self
    }

    /// Sends a request to each next generation before any client reaches that generation: `"/healthz"`,
    /// `"https:/healthz"` or `"https://name/healthz"`. Default: no probe.
    ///
    /// The request goes through the real address, from a source port of its own. A response of 2xx or 3xx passes. The
    /// request is repeated until [`probe_timeout`](Server::probe_timeout); if no response passes, this generation
    /// continues to serve. During canary and soak the probe is repeated. A path alone is requested in plain HTTP and,
    /// if there is no answer, over TLS (feature `tls`) without verification of the certificate: the steering already
    /// ensures that the next generation answers.
    pub fn probe(mut self, target: impl Into<String>) -> Server {
        self.config.probe = Some(target.into());
        self
    }

    /// Sets how long the next generation may take to pass the probe before the probe counts as failed. Default: 5 s.
    pub fn probe_timeout(mut self, timeout: Duration) -> Server {
        self.config.probe_timeout = timeout;
        self
    }

    /// Adds a canary step: this share of the new connections goes to the next generation for this time. Default: no
    /// canary.
    ///
    /// If the next generation dies or fails the probe in this time, or if a rollback is requested, all new connections
    /// return to this generation, and the next generation finishes the connections that it has.
    pub fn canary_step(mut self, share: Share, time: Duration) -> Server {
        self.config.canary.push((share, time));
        self
    }

    /// Sets how long this generation keeps its listeners after all new connections went to the next generation, so that
    /// a rollback can return the new connections at once. Default: zero, no soak.
    pub fn soak(mut self, time: Duration) -> Server {
        self.config.soak = time;
        self
    }

    /// Sets how long the next generation may take to become ready before it is killed and this generation continues to
    /// serve. Default: 30 s.
    pub fn ready_timeout(mut self, timeout: Duration) -> Server {
        self.config.ready_timeout = timeout;
        self
    }

    /// Sets how long a retiring generation waits for handshakes in flight. Default: 5 s.
    ///
    /// The generation waits only as long as there are handshakes that were in flight when new connections were moved
    /// away. With zero the listeners are closed at once, and connections that still wait are **lost**.
    pub fn linger(mut self, linger: Duration) -> Server {
        self.config.linger = linger;
        self
    }

    /// Sets how long a kept-alive connection of a retiring generation may be idle before it is closed. Default: 10 s.
    ///
    /// The closes are spread over a further quarter of this time, so that the clients do not all reconnect at once.
    ///
    /// A connection on which a part of a request header has come, even a single byte, is not idle. Such a connection is
    /// closed when no more of the header has come for this time, or for up to a quarter more. The time counts from the
    /// last byte, but at the earliest from the moment when the generation retired or stopped.
    /// [`header_read_timeout`](Server::header_read_timeout) limits such a connection as well.
    pub fn idle_grace(mut self, grace: Duration) -> Server {
        self.config.idle_grace = grace;
        self
    }

    /// Sets how long a retiring generation may take to finish its connections before it closes the remaining ones.
    /// Default: 60 s.
    ///
    /// HTTP connections are closed at once then, even with a request half sent or a response half sent. Upgraded
    /// connections, HTTP/2 connections with a tunnel (CONNECT) and plain TCP connections have one second more, in which
    /// their handlers, notified by a [`Drain`](crate::Drain), can say goodbye.
    pub fn drain_timeout(mut self, timeout: Duration) -> Server {
        self.config.drain_timeout = timeout;
        self
    }

    /// Sets how long an HTTP/1 client may take to send the header of a request, counted from the end of the previous
    /// response. Default: 30 s. The connection is closed after this time, or up to a quarter of this time later. As
    /// long as a client has not shown which HTTP version it speaks, the same limit counts from the beginning of the
    /// connection. A TLS handshake, with the header of the PROXY protocol before it, has the same limit of its own.
    pub fn header_read_timeout(mut self, timeout: Duration) -> Server {
        self.config.header_read_timeout = timeout;
        self
    }

    /// Sets how long a client may take nothing of a response that is under way before its connection is closed, or up to
    /// a quarter of this time longer. Default: no limit but the [`drain_timeout`](Server::drain_timeout) of a retiring
    /// generation.
    ///
    /// What counts is what the kernel takes of the response. A client of HTTP/2 that opens no window for a stream makes
    /// the server send nothing: [`http2`](Server::http2) can ping such a client.
    pub fn write_timeout(mut self, timeout: Duration) -> Server {
        self.config.write_timeout = Some(timeout);
        self
    }

    /// Sets how long an HTTP connection lives, so that clients spread over the servers behind a load balancer again.
    /// Default: no limit.
    ///
    /// After this time, or up to a quarter of this time later, the connection ends as those of a retiring generation do,
    /// and no request is lost: HTTP/1 with the next response, or when it has been idle for the
    /// [`idle_grace`](Server::idle_grace); HTTP/2 by GOAWAY.
    pub fn max_connection_age(mut self, age: Duration) -> Server {
        self.config.max_connection_age = Some(age);
        self
    }

    /// Changes hyper's settings for HTTP/1. Default: those of hyper.
    ///
    /// The largest header, the timeout for a header and half-closed connections are options of this server, and have no
    /// effect here.
    pub fn http1(mut self, change: impl FnOnce(&mut http1::Builder)) -> Server {
        change(&mut self.builders.one);
        self
    }

    /// Changes hyper's settings for HTTP/2, such as the pings of idle connections, the number of concurrent streams and
    /// the window sizes. Default: those of hyper.
    ///
    /// The largest header is an option of this server, and has no effect here.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// let server = cutover::Server::bind("127.0.0.1:3000").http2(|http2| {
    ///     http2.keep_alive_interval(Duration::from_secs(20)).max_concurrent_streams(100).enable_connect_protocol();
    /// });
    /// ```
    pub fn http2(mut self, change: impl FnOnce(&mut Http2Builder)) -> Server {
        change(&mut self.builders.two);
        self
    }

    /// Sets whether an HTTP/1 client that has sent a request and shut down its writing side (shutdown(2); `nc -N` and
    /// the checks of some load balancers do so) gets its response. Default: true.
    ///
    /// Such a client looks like a client that has left. With true, a handler whose client has left is therefore not
    /// cancelled: the handler runs to its end at its full cost; a streamed response ends when a part cannot be sent.
    /// With false, the handler's future is dropped as soon as the client's side is closed, and no response is sent.
    /// With either value, an idle connection is closed at once.
    pub fn half_close(mut self, answer: bool) -> Server {
        self.config.half_close = answer;
        self
    }

    /// Expects a header of the PROXY protocol, version 1 or 2, at the beginning of each connection, as a load balancer
    /// sends it: [`Stream::read_proxy_header`](crate::Stream::read_proxy_header). Default: none is expected.
    ///
    /// A connection without such a header is closed. The header may take as long to come as the
    /// [`header_read_timeout`](Server::header_read_timeout). The probe of a next generation begins with such a header as
    /// well. For HTTP only: a server that [`listen`](Server::listen)s reads the header from each stream itself.
    pub fn proxy_protocol(mut self) -> Server {
        self.config.proxy_protocol = ProxyProtocol::Required;
        self
    }

    /// Sets the largest size of a request header, in bytes; a request with a larger header gets status 431. Default:
    /// 65,536. Least: 8,192.
    pub fn max_header_size(mut self, bytes: usize) -> Server {
        self.config.max_header_size = bytes;
        self
    }

    /// Sets how many connections may be open at once; further connections wait in the kernel's accept queue. Default:
    /// the limit of descriptors (RLIMIT_NOFILE) less 64.
    pub fn max_connections(mut self, limit: usize) -> Server {
        self.config.max_connections = Some(limit);
        self
    }

    /// Sets how many connections may wait in the kernel's accept queue of one listener; the kernel reduces the value to
    /// `net.core.somaxconn`. Default: 4096.
    pub fn backlog(mut self, connections: u32) -> Server {
        self.config.backlog = connections;
        self
    }

    /// Sets the permissions of the files of Unix sockets, such as 0o660: who may write to a file may connect to it
    /// (unix(7)). Default: 0o777 less the umask.
    ///
    /// The permissions count for a file that the server makes. A next generation gets the listener and leaves the file
    /// as it is.
    pub fn unix_mode(mut self, mode: u32) -> Server {
        self.config.unix_access.mode = Some(mode);
        self
    }

    /// Sets the owner and the group of the files of Unix sockets, by number. Default: those of this process. Another
    /// owner than this process's needs CAP_CHOWN (chown(2)).
    pub fn unix_owner(mut self, user: Option<u32>, group: Option<u32>) -> Server {
        (self.config.unix_access.user, self.config.unix_access.group) = (user, group);
        self
    }

    /// Sets how many listening sockets each address has, 1 to 256. Default: 1, which is right unless one accept queue
    /// is too slow for your machine.
    pub fn listeners_per_address(mut self, listeners: usize) -> Server {
        self.config.listeners_per_address = listeners;
        self
    }
}
