//! Before anything is touched: is there a program, can the next generation listen beside this one, and does the operator's
//! own check agree?

use std::net::SocketAddr;
use std::sync::Arc;

use super::child::Child;
use super::instance::Instance;
use crate::runtime::retire::lock;
use crate::sys::diag;
use crate::sys::socket::{self, Sharing, Stack};
use crate::sys::spawn::{self, Group, Program};

/// # Errors
/// Says what is missing, or in the way.
pub(super) async fn pass(instance: &Arc<Instance>, child: Arc<Child>) -> Result<(), String> {
    let looking = instance.clone();
    let looked = tokio::task::spawn_blocking(move || {
        looking.program.executable()?;
        find_addresses(&looking, &child);
        looking.addresses().into_iter().try_for_each(can_be_shared)
    });
    looked.await.unwrap_or_else(|_| Err("could not be looked for".into()))?;
    match &instance.settings.preflight {
        Some(words) => agree(instance, words).await,
        None => Ok(()),
    }
}

/// Where it was not said where the program listens: wherever it does now.
fn find_addresses(instance: &Instance, child: &Child) {
    if instance.settings.addresses.is_some() {
        return;
    }
    let found: Vec<SocketAddr> = child.addresses().into_iter().collect();
    lock(&instance.groups).listen_on(&found);
    instance.set_addresses(found);
}

/// A socket that was bound beside it begins no handshake before listen(2), so that this is seen by nobody.
fn can_be_shared(address: SocketAddr) -> Result<(), String> {
    let Ok(group) = diag::group(address) else { return Ok(()) };
    let own = rustix::process::geteuid().as_raw();
    match socket::bind(address, Sharing::Group, Stack::Dual).map(drop) {
        // Sockets of another uid are never shared, so this says nothing about the next generation's.
        Err(_) if group.values().any(|uid| *uid != own) => Ok(()),
        Err(_) if !group.is_empty() => Err(format!(
            "was not started, for the program listens on {address} without SO_REUSEPORT, and nobody can listen beside it: \
             {HOW}"
        )),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// How a program is made to share its port.
pub(super) const HOW: &str = "set it (gunicorn: reuse_port = True; nginx: listen ... reuseport; node: listen({ port, \
     reusePort: true }); Python: setsockopt(SOL_SOCKET, SO_REUSEPORT, 1) before bind; Go: net.ListenConfig.Control; Java: \
     StandardSocketOptions.SO_REUSEPORT)";

async fn agree(instance: &Arc<Instance>, words: &[std::ffi::OsString]) -> Result<(), String> {
    let check = instance.program.running(words.to_vec());
    let shown = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let path = check.executable().map_err(|why| format!("has no preflight check: {why}"))?;
    let program = Program {
        path: &path,
        arguments: check.arguments(),
        environment: check.environment().to_vec(),
        directory: check.directory(),
        group: Group::Own,
    };
    let started = instance.reaper.spawn(|| spawn::program(&program));
    let (process, end) = started.map_err(|error| format!("has no preflight check: {error}"))?;
    // Killed if nobody waits for its answer any more.
    let process = Killed(Some(process));
    let ended = end.await.map_err(|_| "was not checked: nobody has waited for that".to_owned())?;
    process.has_ended();
    match ended.code() {
        0 => Ok(()),
        _ => Err(format!("was refused by the preflight check: {shown} {ended}")),
    }
}

/// A process that is killed when this is dropped before it has ended.
struct Killed(Option<crate::sys::process::Process>);

impl Killed {
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            process.kill();
        }
    }
}
