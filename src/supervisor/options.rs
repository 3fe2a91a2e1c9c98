//! The options of a supervisor.

use std::ffi::OsString;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use super::Supervisor;
use super::settings::ReadyWhen;
use crate::config::ControlSocket;
use crate::model::share::Share;
use crate::runtime::bind::{self, BindAddress};

impl Supervisor {
    /// Adds an address on which the program listens. Default: wherever the program is found to listen when a reload
    /// begins.
    ///
    /// On a Unix socket (`"unix:/path"`, `"unix:@name"`) the supervisor listens, and each generation gets the listener as
    /// from a service manager: as descriptor 3, 4, …, with LISTEN_FDS and LISTEN_PID (sd_listen_fds(3)). At most 64.
    pub fn listen(mut self, address: impl BindAddress) -> Supervisor {
        self.listen.push(bind::resolve(address));
        self
    }

    /// Sets the permissions of the files of Unix sockets. See [`Server::unix_mode`](crate::Server::unix_mode).
    pub fn unix_mode(mut self, mode: u32) -> Supervisor {
        self.config.unix_access.mode = Some(mode);
        self
    }

    /// Sets the owner and the group of the files of Unix sockets. See [`Server::unix_owner`](crate::Server::unix_owner).
    pub fn unix_owner(mut self, user: Option<u32>, group: Option<u32>) -> Supervisor {
        (self.config.unix_access.user, self.config.unix_access.group) = (user, group);
        self
    }

    /// Sets how the supervisor detects that a generation is ready. Default: [`ReadyWhen::Listening`].
    pub fn ready(mut self, ready: ReadyWhen) -> Supervisor {
        self.ready = ready;
        self
    }

    /// Sets the signal that tells an old generation to stop, by name or number. Default: `TERM`.
    pub fn stop_signal(mut self, signal: impl Into<String>) -> Supervisor {
        self.stop_signal = signal.into();
        self
    }

    /// Sets how long a generation that was told to stop may take to end before it is killed. Default: 60 s.
    pub fn stop_timeout(mut self, timeout: Duration) -> Supervisor {
        self.config.drain_timeout = timeout;
        self
    }

    /// Sets a command that is run before each reload, such as `["nginx", "-t"]`. If its exit code is not 0, the reload
    /// is refused. Default: none. The command may take as long as a generation may take to become ready.
    pub fn preflight<A: Into<OsString>>(mut self, command: impl IntoIterator<Item = A>) -> Supervisor {
        let words: Vec<OsString> = command.into_iter().map(Into::into).collect();
        self.preflight = Some(words).filter(|words| !words.is_empty());
        self
    }

    /// Sets the name of this instance. See [`Server::name`](crate::Server::name).
    pub fn name(mut self, name: impl Into<String>) -> Supervisor {
        self.config.name = Some(name.into());
        self
    }

    /// Sets the PID file, which names this process. Default: none.
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Supervisor {
        self.config.pid_file = Some(path.into());
        self
    }

    /// Disables the control socket. See [`Server::without_control`](crate::Server::without_control).
    pub fn without_control(mut self) -> Supervisor {
        self.config.control = ControlSocket::Unwanted;
        self
    }

    /// Serves `GET /metrics` on this address. Default: only on the control socket.
    #[expect(clippy::disallowed_methods, reason = "names are resolved before the program is started")]
    pub fn metrics(mut self, address: impl ToSocketAddrs) -> Supervisor {
        self.config.metrics = Some(address.to_socket_addrs().map(Iterator::collect));
        self
    }

    /// Sends a request to each next generation before any client reaches that generation. See
    /// [`Server::probe`](crate::Server::probe).
    pub fn probe(mut self, target: impl Into<String>) -> Supervisor {
        self.config.probe = Some(target.into());
        self
    }

    /// Sets how long the next generation may take to pass the probe before the probe counts as failed. Default: 5 s.
    pub fn probe_timeout(mut self, timeout: Duration) -> Supervisor {
        self.config.probe_timeout = timeout;
        self
    }

    /// Adds a canary step. See [`Server::canary_step`](crate::Server::canary_step).
    pub fn canary_step(mut self, share: Share, time: Duration) -> Supervisor {
        self.config.canary.push((share, time));
        self
    }

    /// Sets how long the old generation continues to run after all new connections went to the next one. Default: zero.
    pub fn soak(mut self, time: Duration) -> Supervisor {
        self.config.soak = time;
        self
    }

    /// Sets how long a generation may take to become ready before it is killed. Default: 30 s.
    pub fn ready_timeout(mut self, timeout: Duration) -> Supervisor {
        self.config.ready_timeout = timeout;
        self
    }

    /// Sets how long an old generation to which no new connections come any more may take to accept the connections
    /// that are on their way, before it is told to stop. Default: 5 s. With zero the generation is told to stop at
    /// once, and connections that still wait are **lost**.
    pub fn linger(mut self, linger: Duration) -> Supervisor {
        self.config.linger = linger;
        self
    }
}
