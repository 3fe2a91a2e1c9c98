//! The terminal of this process, and its foreground process group, which reads from the terminal and gets its Ctrl-C.

use std::io;

use rustix::termios::{tcgetpgrp, tcsetpgrp};

use super::during;
use super::signals::{Blocked, Signals};
use crate::model::identity::Pid;

/// The controlling terminal, on stdin, while this process's group is in the foreground: this process can hand the
/// foreground to the group of a child, as a shell does.
#[derive(Debug)]
pub(crate) struct Terminal {
    ours: rustix::process::Pid,
}

impl Terminal {
    /// `None` if stdin is no terminal, is not the controlling terminal, or if another group is in the foreground.
    pub(crate) fn ours() -> Option<Terminal> {
        let ours = own_group()?;
        // ENOTTY if stdin is no terminal, or is not the controlling terminal of this process (tcgetpgrp(3)).
        (tcgetpgrp(std::io::stdin()).ok()? == ours).then_some(Terminal { ours })
    }

    /// Makes `group` the foreground group.
    ///
    /// A group that has read from the terminal before was stopped by SIGTTIN, and needs a SIGCONT afterwards.
    ///
    /// # Errors
    /// The error of tcsetpgrp(3): `EPERM` for a group of another session, `ESRCH` for a group that is gone, `EIO` if
    /// the terminal is gone.
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

/// This process's group; `None` if the group is outside of this PID namespace and has no number here. rustix's own
/// function takes that for impossible.
#[allow(unsafe_code)]
fn own_group() -> Option<rustix::process::Pid> {
    // SAFETY: the call takes no argument, and always succeeds (getpgrp(3)).
    let raw = unsafe { libc::getpgrp() };
    rustix::process::Pid::from_raw(raw)
}

/// A background process that changes the foreground group is stopped by SIGTTOU, unless that signal is blocked
/// (tcsetpgrp(3)). This process is in the background after it has given the terminal away.
fn set_foreground(group: rustix::process::Pid) -> io::Result<()> {
    let _blocked = Blocked::also(&Signals::only(libc::SIGTTOU))?;
    Ok(tcsetpgrp(std::io::stdin(), group)?)
}

#[cfg(test)]
mod tests;
