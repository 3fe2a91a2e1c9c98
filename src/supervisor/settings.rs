//! The checked settings of a supervisor.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;

use crate::model::probe::Target;
use crate::model::rollout::Plan;
use crate::model::unix_address::UnixAddress;

/// How the supervisor detects that a generation is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadyWhen {
    /// The generation sends `READY=1` to its NOTIFY_SOCKET (sd_notify(3)); any of its processes may send it.
    Notify,
    /// A process of the generation listens on each address.
    Listening,
    /// As [`Listening`](ReadyWhen::Listening), and the generation answers a request to this target with 2xx or 3xx:
    /// `/healthz`, `https:/healthz` or `https://name/healthz`.
    Http(String),
    /// The generation has run for this time.
    Delay(Duration),
}

/// The settings that all generations share.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) plan: Plan,
    pub(super) ready: ReadyWhen,
    /// The target of the request to each generation before users reach that generation.
    pub(super) target: Option<Target>,
    pub(super) stop_signal: Signal,
    pub(super) preflight: Option<Vec<OsString>>,
    /// The addresses on which the program listens, as given by the user; `None` if they are to be found out.
    pub(super) addresses: Option<Vec<SocketAddr>>,
    /// The Unix sockets of which the program gets the listeners.
    pub(super) unix: Vec<UnixAddress>,
}

/// The signal with this name or number: `TERM`, `SIGTERM`, `15`.
pub(super) fn signal(text: &str) -> Option<Signal> {
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    let is_meant = |number: &i32| {
        text.parse() == Ok(*number) || signal_hook::low_level::signal_name(*number) == Some(name.as_str())
    };
    (1..=31).find(is_meant).and_then(Signal::from_named_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["TERM", "SIGTERM", "term", "15"] {
            assert_eq!(signal(text), Some(Signal::TERM), "{text}");
        }
        assert_eq!(signal("QUIT"), Some(Signal::QUIT));
        for text in ["", "SIG", "NOPE", "0", "99", "-1"] {
            assert_eq!(signal(text), None, "{text}");
        }
    }
}
