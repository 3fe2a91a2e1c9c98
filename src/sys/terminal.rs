//! The terminal of this process: which process group is in its foreground, reads from it and gets its Ctrl-C.

use std::io;

use rustix::termios::{tcgetpgrp, tcsetpgrp};

use super::during;
use super::signals::{Blocked, Signals};
use crate::model::identity::Pid;

/// The controlling terminal, on stdin, that this process's group has the foreground of: to be handed on to the group of a
/// child, as a shell does it.
#[derive(Debug)]
pub(crate) struct Terminal {
    ours: rustix::process::Pid,
}

impl Terminal {
    /// `None` if stdin is no terminal, is not the controlling one, or if another group is in the foreground.
    pub(crate) fn ours() -> Option<Terminal> {
        let ours = own_group()?;
        // ENOTTY for what is no terminal, or not the controlling one of this process (tcgetpgrp(3)).
        (tcgetpgrp(std::io::stdin()).ok()? == ours).then_some(Terminal { ours })
    }

    /// Makes `group` the foreground group.
    ///
    /// One that has read from the terminal before that was stopped by SIGTTIN, and needs a SIGCONT afterwards.
    ///
    /// # Errors
    /// What tcsetpgrp(3) says: `EPERM` for a group of another session, `ESRCH` for one that is gone, `EIO` if the terminal
    /// is.
    pub(crate) fn give(&self, group: Pid) -> io::Result<()> {
        let raw = i32::try_from(group.number()).ok().and_then(rustix::process::Pid::from_raw);
        let raw = raw.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput));
        raw.and_then(set_foreground).map_err(|e| during(format_args!("give the terminal to process group {group}"), e))
    }

    /// Makes this process's group the foreground group again. A terminal that is gone is left as it is.
    pub(crate) fn take_back(&self) {
        let _ = set_foreground(self.ours);
    }
}

/// `None` if it is outside of this PID namespace, where it has no number: that of rustix takes none for impossible.
#[allow(unsafe_code)]
fn own_group() -> Option<rustix::process::Pid> {
    // SAFETY: it takes nothing, and always succeeds (getpgrp(3)).
    let raw = unsafe { libc::getpgrp() };
    rustix::process::Pid::from_raw(raw)
}

/// A process of the background that does this is stopped by SIGTTOU, except when that is blocked (tcsetpgrp(3)): after the
/// terminal was given away, this is such a process.
fn set_foreground(group: rustix::process::Pid) -> io::Result<()> {
    let _blocked = Blocked::also(&Signals::only(libc::SIGTTOU))?;
    Ok(tcsetpgrp(std::io::stdin(), group)?)
}

#[cfg(test)]
#[path = "terminal_tests.rs"]
mod tests;
