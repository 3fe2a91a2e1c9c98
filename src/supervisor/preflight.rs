//! The checks before a reload changes anything: whether there is a program, whether the next generation can listen
//! beside the live one, and whether the operator's own check agrees.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::child::Child;
use super::instance::Instance;
use crate::model::identity::Pid;
use crate::runtime::offload::{self, Stalled};
use crate::runtime::role::{OWN, SUPERVISED};
use crate::sys::launch::ExecutableError;
use crate::sys::process::Process;
use crate::sys::process_tree::Orphans;
use crate::sys::reaper::Ended;
use crate::sys::socket::{self, Sharing, Stack};
use crate::sys::spawn::{self, Group, Program};
use crate::sys::{process_tree, sock_diag};

/// The number of no process: the largest process ID of Linux is 2^22.
const NOBODY: Pid = Pid::new(u32::MAX);

/// Why a rollout may not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum PreflightError {
    #[error(transparent)]
    Executable(#[from] ExecutableError),
    #[error(
        "was not started, because the program listens on {0} without SO_REUSEPORT, and nobody can listen beside it: {HOW}"
    )]
    Alone(SocketAddr),
    #[error("was not started: the checks before the start panicked")]
    Panicked,
    #[error("was not started: its preflight check cannot be run: {0}")]
    NoCheck(CheckError),
    #[error("was not started: the result of its preflight check is lost")]
    Lost,
    #[error("was refused by the preflight check: {check} {ended}")]
    Refused { check: String, ended: Ended },
}

/// Why the preflight check cannot be run.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error(transparent)]
    Executable(#[from] ExecutableError),
    #[error(transparent)]
    Spawn(#[from] io::Error),
    #[error(transparent)]
    Stalled(#[from] Stalled),
}

/// # Errors
/// Says what is missing, or in the way.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
pub(super) async fn pass(instance: &Arc<Instance>, child: Arc<Child>) -> Result<(), PreflightError> {
    let looking = instance.clone();
    let looked = instance.attempts.run(move || {
        looking.program.executable()?;
        find_addresses(&looking, &child);
        looking.addresses().into_iter().try_for_each(can_be_shared)
    });
    looked.await.unwrap_or(Err(PreflightError::Panicked))?;
    match &instance.settings.preflight {
        Some(words) => agree(instance, words).await,
        None => Ok(()),
    }
}

/// Takes the addresses on which the program listens now, if the user has given none.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
fn find_addresses(instance: &Instance, child: &Child) {
    if instance.settings.addresses.is_some() {
        return;
    }
    let found: Vec<SocketAddr> = child.addresses().into_iter().collect();
    instance.set_addresses(found.clone());
    instance.groups.post(move |table| table.listen_on(&found));
}

/// Whether another socket can be bound beside the program's. The kernel begins no handshake for a bound socket before
/// listen(2), so no client notices this check.
fn can_be_shared(address: SocketAddr) -> Result<(), PreflightError> {
    let Ok(group) = sock_diag::group(address) else { return Ok(()) };
    let own = rustix::process::geteuid().as_raw();
    match socket::bind(address, Sharing::Group, Stack::Dual).map(drop) {
        // Sockets of different uids are never shared, so this error says nothing about the sockets of the next
        // generation.
        Err(_) if group.values().any(|uid| *uid != own) => Ok(()),
        Err(_) if !group.is_empty() => Err(PreflightError::Alone(address)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// How a program is made to share its port.
pub(super) const HOW: &str = "set SO_REUSEPORT (gunicorn: reuse_port = True; nginx: listen ... reuseport; node: listen({ \
     port, reusePort: true }); Python: setsockopt(SOL_SOCKET, SO_REUSEPORT, 1) before bind; Go: net.ListenConfig.Control; \
     Java: StandardSocketOptions.SO_REUSEPORT)";

#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
async fn agree(instance: &Arc<Instance>, words: &[OsString]) -> Result<(), PreflightError> {
    let check = instance.program.running(words.to_vec());
    let shown = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let mark = format!("{SUPERVISED}={}/preflight", std::process::id());
    // The check is not a service: the service manager would take its notifications for those of the supervisor.
    let is_handed_on =
        |name: &OsString| name != SUPERVISED && name != "NOTIFY_SOCKET" && !OWN.iter().any(|own| name == own);
    let mut environment: Vec<_> = check.environment().iter().filter(|(name, _)| is_handed_on(name)).cloned().collect();
    environment.extend(mark.split_once('=').map(|(name, value)| (name.into(), value.into())));
    let reaper = instance.reaper.clone();
    let started = instance.attempts.run(move || {
        let path = check.executable()?;
        let (arguments, directory, group) = (check.arguments(), check.directory(), Group::Own);
        let attributes = check.attributes();
        let program = Program { path: &path, arguments, environment, directory, attributes, group, listeners: &[] };
        let (process, end) = reaper.spawn(|| spawn::program(&program))?;
        Ok((Check { process, mark }, end))
    });
    let started: Result<_, CheckError> = started.await.unwrap_or_else(|stalled| Err(stalled.into()));
    let (running, end) = started.map_err(PreflightError::NoCheck)?;
    let ended = end.await.map_err(|_| PreflightError::Lost)?;
    drop(running);
    match ended.code() {
        0 => Ok(()),
        _ => Err(PreflightError::Refused { check: shown, ended }),
    }
}

/// A running check. Dropping this value kills the check and all its descendants: its result is known, or no longer
/// waited for.
struct Check {
    process: Process,
    /// Identifies the processes that the check has left behind and the supervisor has adopted.
    mark: String,
}

impl Drop for Check {
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    fn drop(&mut self) {
        // The process is held by a pidfd: if it has ended, no signal is sent, even if another process has its number
        // now.
        self.process.kill();
        let mark = std::mem::take(&mut self.mark);
        offload::detach(move || {
            process_tree::kill(|| process_tree::living(NOBODY, mark.as_bytes(), Orphans::ANY).unwrap_or_default())
        });
    }
}
