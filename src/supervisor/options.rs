//! What can be set.

use std::ffi::OsString;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use super::Supervisor;
use super::settings::ReadyWhen;
use crate::config::ControlSocket;
use crate::model::share::Share;

impl Supervisor {
    /// One more address on which the program listens. Default: wherever it is found to listen when a reload begins.
    #[expect(clippy::disallowed_methods, reason = "names are resolved before the program is started")]
    pub fn listen(mut self, address: impl ToSocketAddrs) -> Supervisor {
        self.listen.push(address.to_socket_addrs().map(Iterator::collect));
        self
    }

    /// How it is known that a generation is ready. Default: [`ReadyWhen::Listening`].
    pub fn ready(mut self, ready: ReadyWhen) -> Supervisor {
        self.ready = ready;
        self
    }

    /// The signal by which an old generation is told to stop, by name or number. Default: `TERM`.
    pub fn stop_signal(mut self, signal: impl Into<String>) -> Supervisor {
        self.stop_signal = signal.into();
        self
    }

    /// How long a generation that was told to stop may take, before it is killed. Default: 60 s.
    pub fn stop_timeout(mut self, timeout: Duration) -> Supervisor {
        self.config.drain_timeout = timeout;
        self
    }

    /// A command that is asked before each reload, such as `["nginx", "-t"]`: if it does not end with 0, there is none.
    /// Default: none. It may take as long as a generation may take to become ready.
    pub fn preflight<A: Into<OsString>>(mut self, command: impl IntoIterator<Item = A>) -> Supervisor {
        let words: Vec<OsString> = command.into_iter().map(Into::into).collect();
        self.preflight = Some(words).filter(|words| !words.is_empty());
        self
    }

    /// The name of this instance. See [`Server::name`](crate::Server::name).
    pub fn name(mut self, name: impl Into<String>) -> Supervisor {
        self.config.name = Some(name.into());
        self
    }

    /// A file that names this process. Default: none.
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Supervisor {
        self.config.pid_file = Some(path.into());
        self
    }

    /// No control socket. See [`Server::without_control`](crate::Server::without_control).
    pub fn without_control(mut self) -> Supervisor {
        self.config.control = ControlSocket::Unwanted;
        self
    }

    /// Offers `GET /metrics` on this address. Default: only on the control socket.
    #[expect(clippy::disallowed_methods, reason = "names are resolved before the program is started")]
    pub fn metrics(mut self, address: impl ToSocketAddrs) -> Supervisor {
        self.config.metrics = Some(address.to_socket_addrs().map(Iterator::collect));
        self
    }

    /// Asks each next generation before any user gets to it. See [`Server::probe`](crate::Server::probe).
    pub fn probe(mut self, target: impl Into<String>) -> Supervisor {
        self.config.probe = Some(target.into());
        self
    }

    /// How long the next generation is asked before the probe counts as failed. Default: 5 s.
    pub fn probe_timeout(mut self, timeout: Duration) -> Supervisor {
        self.config.probe_timeout = timeout;
        self
    }

    /// One more step of a canary. See [`Server::canary_step`](crate::Server::canary_step).
    pub fn canary_step(mut self, share: Share, time: Duration) -> Supervisor {
        self.config.canary.push((share, time));
        self
    }

    /// How long the old generation runs on after all new connections went to the next one. Default: zero.
    pub fn soak(mut self, time: Duration) -> Supervisor {
        self.config.soak = time;
        self
    }

    /// How long a generation may take to become ready, before it is killed. Default: 30 s.
    pub fn ready_timeout(mut self, timeout: Duration) -> Supervisor {
        self.config.ready_timeout = timeout;
        self
    }

    /// How long an old generation is left alone, when new connections no longer come to it, until it has taken in what was
    /// on its way. Default: 5 s. Zero tells it to stop at once, and **loses** what waits.
    pub fn linger(mut self, linger: Duration) -> Supervisor {
        self.config.linger = linger;
        self
    }
}
