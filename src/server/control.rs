//! The name of an instance, and its control socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Server;
use crate::config::ControlSocket;
use crate::error::{Error, ErrorKind};
use crate::model::identity::Pid;
use crate::model::instance_name;
use crate::runtime::birth::Role;
use crate::runtime::control::{Asks, Control};
use crate::sys::control_folder::Surroundings;
use crate::sys::control_socket::Refused;

impl Server {
    /// # Errors
    /// If the name cannot be one: it becomes a file name.
    pub(super) fn check_name(&self) -> Result<(), Error> {
        let checked = self.config.name.as_deref().map_or(Ok(()), instance_name::check);
        checked.map_err(|why| Error::new(ErrorKind::Config, why))
    }

    /// The name of the instance, and its control socket if it gets one.
    ///
    /// Without a name of its own an instance is called by its first address, which no other can have.
    ///
    /// # Errors
    /// If another instance lives by the same name, given by the user.
    pub(super) fn control(
        &self,
        role: &Role,
        first: Option<SocketAddr>,
        asks: &Asks,
    ) -> Result<(String, Option<Control>), Error> {
        if let Some(path) = role.birth().and_then(|birth| birth.control.clone()) {
            let name = path.file_name().and_then(|file| file.to_str()).and_then(instance_name::of_file);
            let name = name.unwrap_or_default().to_owned();
            return Ok((name, Some(Control::later(path, asks.clone()))));
        }
        let default = || first.map_or_else(|| std::process::id().to_string(), |address| address.to_string());
        let name = self.config.name.clone().unwrap_or_else(default);
        let surroundings = Surroundings::new(|name| self.origin.variable(name).map(ToOwned::to_owned));
        let folder = match (self.config.control, surroundings.own()) {
            (ControlSocket::Wanted, Some(folder)) => folder,
            (ControlSocket::Wanted, None) => {
                tracing::info!(
                    "no control socket, for there is no folder for it (RUNTIME_DIRECTORY, XDG_RUNTIME_DIR); signals work"
                );
                return Ok((name, None));
            }
            (ControlSocket::Unwanted, _) => return Ok((name, None)),
        };
        match self.config.name {
            Some(_) => named(folder, name, asks),
            None => Ok(unnamed(folder, name, asks)),
        }
    }
}

fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(instance_name::file_name(name))
}

fn named(folder: &Path, name: String, asks: &Asks) -> Result<(String, Option<Control>), Error> {
    match Control::claim(&path(folder, &name), asks.clone()) {
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
fn unnamed(folder: &Path, name: String, asks: &Asks) -> (String, Option<Control>) {
    let other = format!("{name}-{}", std::process::id());
    for name in [name.clone(), other] {
        match Control::claim(&path(folder, &name), asks.clone()) {
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
