//! The process of a server without a control socket: proven to be the one that its PID file means, held by a pidfd, and
//! signalled.

use std::path::Path;

use rustix::process::Signal;

use super::error::{ControlError, ControlErrorKind};
use super::{pid_file, proof};
use crate::model::identity::Pid;
use crate::sys::process::HeldProcess;

/// The process that a PID file names, proven to be a server that was started from a folder. The process is held by a
/// pidfd, so that a signal never reaches a later process with the same number.
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
    /// The process that this PID file names, if all of this holds: the process began before the file was written
    /// (within 2 s, the granularity of these times), it handles SIGHUP, and its executable, or the path by which it was
    /// started, is in `root`. That path is its argv 0; for a script also the script, if its first line asks for the
    /// interpreter that runs.
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
        // The process that was examined is the held one only if the held process still has its number.
        if !held.is_alive() {
            return Err(not_it("is gone"));
        }
        proven.map_err(|why| not_it(&why.to_string()))?;
        Ok(ServerProcess { pid, held })
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether the process has not ended.
    pub fn is_alive(&self) -> bool {
        self.held.is_alive()
    }

    /// Sends SIGHUP to the process, which then starts the next generation.
    ///
    /// # Errors
    /// [`NoInstance`](ControlErrorKind::NoInstance) if the process has ended, [`Denied`](ControlErrorKind::Denied) if
    /// it belongs to another user.
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
