//! The settings that a user can make, and their limits.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::defaults;
use crate::error::{Error, ErrorKind};
use crate::model::share::Share;
use crate::sys::unix_listener::Access;

/// Whether there is a control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ControlSocket {
    Wanted,
    Unwanted,
}

/// Whether each connection begins with a header of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyProtocol {
    Off,
    Required,
}

/// The settings of a server.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) name: Option<String>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) control: ControlSocket,
    pub(crate) metrics: Option<io::Result<Vec<SocketAddr>>>,
    /// The target of the probe of the next generation, as the user wrote it.
    pub(crate) probe: Option<String>,
    pub(crate) probe_timeout: Duration,
    /// The steps: the share of new connections, and its duration.
    pub(crate) canary: Vec<(Share, Duration)>,
    pub(crate) soak: Duration,
    pub(crate) ready_timeout: Duration,
    pub(crate) handover_timeout: Duration,
    pub(crate) linger: Duration,
    pub(crate) idle_grace: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) header_read_timeout: Duration,
    pub(crate) write_timeout: Option<Duration>,
    pub(crate) max_connection_age: Option<Duration>,
    pub(crate) max_header_size: usize,
    pub(crate) half_close: bool,
    pub(crate) proxy_protocol: ProxyProtocol,
    pub(crate) max_connections: Option<usize>,
    pub(crate) backlog: u32,
    pub(crate) unix_access: Access,
    pub(crate) listeners_per_address: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            name: None,
            pid_file: None,
            control: ControlSocket::Wanted,
            metrics: None,
            probe: None,
            probe_timeout: defaults::PROBE_TIMEOUT,
            canary: Vec::new(),
            soak: defaults::SOAK,
            ready_timeout: defaults::READY_TIMEOUT,
            handover_timeout: defaults::HANDOVER_TIMEOUT,
            linger: defaults::LINGER,
            idle_grace: defaults::IDLE_GRACE,
            drain_timeout: defaults::DRAIN_TIMEOUT,
            header_read_timeout: defaults::HEADER_READ_TIMEOUT,
            write_timeout: None,
            max_connection_age: None,
            max_header_size: defaults::MAX_HEADER_SIZE,
            half_close: true,
            proxy_protocol: ProxyProtocol::Off,
            max_connections: None,
            backlog: defaults::BACKLOG,
            unix_access: Access::default(),
            listeners_per_address: defaults::LISTENERS_PER_ADDRESS,
        }
    }
}

/// The smallest header buffer that hyper can work with.
pub(crate) const HEADER_SIZE_MIN: usize = 8192;
/// The longest duration that is allowed: a clock can still add it to the current time.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Config {
    /// # Errors
    /// [`ErrorKind::Config`], with the name of the value that makes no sense.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |what: String| Err(Error::new(ErrorKind::Config, what));
        let durations = [
            ("ready timeout", self.ready_timeout),
            ("probe timeout", self.probe_timeout),
            ("handover timeout", self.handover_timeout),
            ("soak", self.soak),
            ("linger", self.linger),
            ("idle grace", self.idle_grace),
            ("drain timeout", self.drain_timeout),
            ("header read timeout", self.header_read_timeout),
        ];
        let optional =
            [("write timeout", self.write_timeout), ("maximum age of a connection", self.max_connection_age)];
        let optional = optional.into_iter().filter_map(|(what, duration)| Some((what, duration?)));
        if let Some((what, _)) = optional.clone().find(|(_, duration)| duration.is_zero()) {
            return wrong(format!("the {what} is 0, so that no request could ever be answered"));
        }
        let steps = self.canary.iter().map(|(_, time)| ("canary step", *time));
        if let Some((what, long)) =
            durations.into_iter().chain(optional).chain(steps).find(|(_, duration)| *duration > LONGEST)
        {
            return wrong(format!("the {what} is {long:?}, more than a year"));
        }
        if self.ready_timeout.is_zero() {
            return wrong("the ready timeout is 0, so that no generation could ever become ready".into());
        }
        if self.probe_timeout.is_zero() {
            return wrong("the probe timeout is 0, so that no probe could ever pass".into());
        }
        if self.header_read_timeout.is_zero() {
            return wrong("the header read timeout is 0, so that no request could ever be read".into());
        }
        if self.max_header_size < HEADER_SIZE_MIN {
            return wrong(format!("the header size is {} bytes; the least is {HEADER_SIZE_MIN}", self.max_header_size));
        }
        if !(1..=256).contains(&self.listeners_per_address) {
            return wrong(format!("{} listeners per address; it must be 1 to 256", self.listeners_per_address));
        }
        if self.max_connections == Some(0) || self.backlog == 0 {
            return wrong("the limit of connections and the backlog must be at least 1".into());
        }
        Ok(())
    }
}
