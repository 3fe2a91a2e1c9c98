//! Tells the service manager, or the generation before, in the sd_notify protocol.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

pub(crate) use sd_notify::NotifyState;

/// What to do when the receiver's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    Wait,
    GiveUp,
}

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

    /// Sends all of `states` in one datagram, which is what a manager takes as one message. Waits if its queue is full.
    pub(crate) fn send(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = self.try_or_wait(states, Full::Wait) {
            tracing::warn!(%error, "cannot notify {:?}, ignoring", self.name);
        }
    }

    /// The same, of what will be said again: if the queue of the manager is full it is not said.
    pub(crate) fn try_send(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = self.try_or_wait(states, Full::GiveUp) {
            tracing::debug!(%error, "cannot notify {:?}, ignoring", self.name);
        }
    }

    fn try_or_wait(&self, states: &[NotifyState<'_>], full: Full) -> io::Result<()> {
        let Some(to) = &self.to else { return Ok(()) };
        let text = states.iter().fold(String::new(), |mut text, state| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{state}");
            text
        });
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(full == Full::GiveUp)?;
        socket.send_to_addr(text.as_bytes(), to).map(drop)
    }
}
