//! The name of an instance, and the control socket that goes with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::control::{Control, ControlTarget};
use crate::config::ControlSocket;
use crate::error::{Error, ErrorKind};
use crate::model::identity::Pid;
use crate::model::instance_name;
use crate::sys::control_folder::RuntimeDirs;
use crate::sys::control_socket::Refused;
use crate::sys::launch::Launch;

/// What an instance is called by.
pub(crate) struct Naming<'a> {
    /// By the user.
    pub(crate) given: Option<&'a str>,
    /// Its first address, which no other can have.
    pub(crate) first: Option<SocketAddr>,
    pub(crate) control: ControlSocket,
}

/// # Errors
/// If the name cannot be one: it becomes a file name.
pub(crate) fn check(name: Option<&str>) -> Result<(), Error> {
    name.map_or(Ok(()), instance_name::check).map_err(|why| Error::new(ErrorKind::Config, why))
}

/// The name of a new instance, and its control socket if it gets one.
///
/// # Errors
/// If another instance lives by the same name, given by the user.
pub(crate) fn claim(
    naming: &Naming<'_>,
    launch: &Launch,
    control_target: &ControlTarget,
) -> Result<(String, Option<Control>), Error> {
    let default = || naming.first.map_or_else(|| std::process::id().to_string(), |address| address.to_string());
    let name = naming.given.map_or_else(default, ToOwned::to_owned);
    let runtime_dirs = RuntimeDirs::new(|name| launch.variable(name).map(ToOwned::to_owned));
    let folder = match (naming.control, runtime_dirs.own()) {
        (ControlSocket::Wanted, Some(folder)) => folder,
        (ControlSocket::Wanted, None) => {
            tracing::info!(
                "no control socket, for there is no folder for it (RUNTIME_DIRECTORY, XDG_RUNTIME_DIR); signals work"
            );
            return Ok((name, None));
        }
        (ControlSocket::Unwanted, _) => return Ok((name, None)),
    };
    match naming.given {
        Some(_) => named(folder, name, control_target),
        None => Ok(unnamed(folder, name, control_target)),
    }
}

fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(instance_name::file_name(name))
}

fn named(folder: &Path, name: String, control_target: &ControlTarget) -> Result<(String, Option<Control>), Error> {
    match Control::claim(&path(folder, &name), control_target.clone()) {
        Ok(control) => Ok((name, Some(control))),
        Err(Refused::Taken(pid)) => {
            let who = pid.map_or_else(String::new, |pid: Pid| format!(" (pid {pid})"));
            let why =
                format!("an instance with the name {name} runs already{who}, by {}", path(folder, &name).display());
            Err(Error::new(ErrorKind::AlreadyRunning, why))
        }
        Err(Refused::Failed(error)) => {
            tracing::warn!(%error, "no control socket; signals still work");
            Ok((name, None))
        }
    }
}

/// Its name is an address, which another network namespace may have too: then the pid tells them apart.
fn unnamed(folder: &Path, name: String, control_target: &ControlTarget) -> (String, Option<Control>) {
    let other = format!("{name}-{}", std::process::id());
    for name in [name.clone(), other] {
        match Control::claim(&path(folder, &name), control_target.clone()) {
            Ok(control) => return (name, Some(control)),
            Err(Refused::Taken(_)) => {}
            Err(Refused::Failed(error)) => {
                tracing::warn!(%error, "no control socket; signals still work");
                break;
            }
        }
    }
    (name, None)
}
