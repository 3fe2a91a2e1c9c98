//! The name of an instance, and the control socket that goes with it.

use std::path::{Path, PathBuf};

use super::control::{Control, ControlTarget};
use crate::config::ControlSocket;
use crate::error::{Error, ErrorKind};
use crate::model::identity::Pid;
use crate::model::instance_name;
use crate::sys::control_folder::RuntimeDirs;
use crate::sys::control_socket::Refused;
use crate::sys::launch::Launch;

/// What the name of an instance is made from.
pub(crate) struct Naming<'a> {
    /// The name that the user has given.
    pub(crate) given: Option<&'a str>,
    /// The first address of the instance, which no other instance can have, or a name that is made from it.
    pub(crate) first: Option<String>,
    pub(crate) control: ControlSocket,
}

/// # Errors
/// If the name is not valid: it must be usable as a file name.
pub(crate) fn check(name: Option<&str>) -> Result<(), Error> {
    name.map_or(Ok(()), instance_name::check).map_err(|why| Error::new(ErrorKind::Config, why.to_string()))
}

/// The name of a new instance, and its control socket if it gets one.
///
/// # Errors
/// If the user has given the name, and another live instance has it.
pub(crate) fn claim(
    naming: &Naming<'_>,
    launch: &Launch,
    control_target: &ControlTarget,
) -> Result<(String, Option<Control>), Error> {
    let default = || naming.first.clone().unwrap_or_else(|| std::process::id().to_string());
    let name = naming.given.map_or_else(default, ToOwned::to_owned);
    let runtime_dirs = RuntimeDirs::new(|name| launch.variable(name).map(ToOwned::to_owned));
    let folder = match (naming.control, runtime_dirs.own()) {
        (ControlSocket::Wanted, Some(folder)) => folder,
        (ControlSocket::Wanted, None) => {
            tracing::info!(
                "no control socket, because there is no folder for it (RUNTIME_DIRECTORY, XDG_RUNTIME_DIR); signals \
                 work"
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
                format!("an instance with the name {name} runs already{who}: see {}", path(folder, &name).display());
            Err(Error::new(ErrorKind::AlreadyRunning, why))
        }
        Err(Refused::Failed(error)) => {
            tracing::warn!(%error, "no control socket; signals still work");
            Ok((name, None))
        }
    }
}

/// Claims a control socket for an instance without a given name. Its name is an address, which an instance in another
/// network namespace may have too: then the pid is added to the name.
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
