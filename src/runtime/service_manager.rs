//! Tells the service manager, or the generation before, in the sd_notify protocol.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

pub(crate) use sd_notify::NotifyState;

/// One receiver of notifications; or none, and then nothing is sent.
#[derive(Debug, Clone)]
pub(crate) struct Notifier {
    to: Option<SocketAddr>,
    name: Option<OsString>,
}

impl Notifier {
    /// The receiver that a NOTIFY_SOCKET variable names: `/path` or `@abstract` (sd_notify(3)).
    pub(crate) fn new(name: Option<&OsStr>) -> Notifier {
        let to = name.and_then(|name| match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest).ok(),
            [b'/', ..] => SocketAddr::from_pathname(name).ok(),
            _ => None,
        });
        Notifier { to, name: name.map(OsStr::to_owned) }
    }

    /// The variable's value, to be handed on.
    pub(crate) fn name(&self) -> Option<&OsStr> {
        self.name.as_deref()
    }

    /// Sends all of `states` in one datagram, which is what a manager takes as one message.
    pub(crate) fn send(&self, states: &[NotifyState<'_>]) {
        let Some(to) = &self.to else { return };
        let text = states.iter().fold(String::new(), |mut text, state| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{state}");
            text
        });
        let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to_addr(text.as_bytes(), to));
        if let Err(error) = sent {
            tracing::warn!(%error, "cannot notify {:?}, ignoring", self.name);
        }
    }
}
