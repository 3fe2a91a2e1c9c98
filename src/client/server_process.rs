//! The process of a server without a control socket: proven to be what its PID file means, held, and signalled.

use std::path::Path;

use rustix::process::Signal;

use super::error::{ControlError, ControlErrorKind};
use super::{pid_file, proof};
use crate::model::identity::Pid;
use crate::sys::process::HeldProcess;

/// The process that a PID file names, proven to be a server that was started from a folder. It is held by a pidfd, so that
/// a later process with the same number is never meant.
///
/// For a server that has a control socket there is [`Control::of_pid_file`](crate::control::Control::of_pid_file).
///
/// ```no_run
/// # fn main() -> Result<(), cutover::control::ControlError> {
/// let server = cutover::control::ServerProcess::of_pid_file("/run/web.pid", "/srv/web")?;
/// server.hup()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ServerProcess {
    pid: Pid,
    held: HeldProcess,
}

impl ServerProcess {
    /// The process that this PID file names, if all of this holds: it began before the file was written (within 2 s: the
    /// times are that coarse), it handles SIGHUP, and its executable, or the path that it was started by, is in `root` (its
    /// argv 0; for a script the script, where its first line asks for the interpreter that runs).
    ///
    /// # Errors
    /// [`NoInstance`](ControlErrorKind::NoInstance), with the process and the proof that fails.
    pub fn of_pid_file(file: impl AsRef<Path>, root: impl AsRef<Path>) -> Result<ServerProcess, ControlError> {
        let (file, root) = (file.as_ref(), root.as_ref());
        let named = pid_file::read(file)?;
        let pid = named.pid;
        let not_it = |why: &str| {
            let message = format!("process {pid} of {} {why}", file.display());
            ControlError::new(ControlErrorKind::NoInstance, message)
        };
        let held = HeldProcess::hold(pid).ok_or_else(|| not_it("is gone"))?;
        let proven = proof::prove(named, root);
        // Whoever was looked at was the one that is held only if that has still its number.
        if !held.is_alive() {
            return Err(not_it("is gone"));
        }
        proven.map_err(|why| not_it(&why))?;
        Ok(ServerProcess { pid, held })
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        self.held.is_alive()
    }

    /// Sends it SIGHUP, by which it starts the next generation.
    ///
    /// # Errors
    /// [`NoInstance`](ControlErrorKind::NoInstance) if it has ended, [`Denied`](ControlErrorKind::Denied) if it belongs to
    /// another user.
    pub fn hup(&self) -> Result<(), ControlError> {
        if self.held.signal(Signal::HUP) {
            return Ok(());
        }
        let pid = self.pid;
        Err(match self.held.is_alive() {
            true => ControlError::new(ControlErrorKind::Denied, format!("process {pid} belongs to another user")),
            false => ControlError::new(ControlErrorKind::NoInstance, format!("process {pid} is gone")),
        })
    }
}
