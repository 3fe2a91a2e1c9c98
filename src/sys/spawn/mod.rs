//! Starts the next generation as this process was started, or another program. The child has descriptors 0, 1 and 2, and
//! the listeners that it is given.
#![allow(unsafe_code)]

mod clone;
mod descriptors;
mod image;
mod size;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::io::Errno;

use self::clone::{Birth, ChildOf, Failed};
use self::descriptors::Descriptors;
use self::image::Image;
use super::attributes::Attributes;
use super::during;
use super::launch::Launch;
use super::process::Process;
use super::signals::Signals;
use crate::model::identity::Pid;

pub(crate) use self::image::Group;

/// Starts `path` as this process was started: arguments, environment (less `removed`, plus `added`), directory, process
/// group, and the other attributes of [`Attributes`], whatever the application has made of them since.
///
/// Descriptors above 2 are closed, those without close-on-exec included. Only SIGHUP is blocked: the next generation
/// unblocks SIGHUP when it can handle the signal ([`unblock_hup`]), so that a SIGHUP sent to the whole group does not
/// kill the next generation in its first millisecond. A file that is no program is an error, and is not given to a
/// shell. Blocks the thread until exec has happened.
///
/// The new process becomes a child of this process, or of this process's parent if that parent is `manager`, which
/// reaps all its children.
///
/// # Errors
/// The error of clone(2), chdir(2) or execve(2), with the object.
pub(crate) fn spawn(
    launch: &Launch,
    path: &Path,
    removed: &[&str],
    added: &[(&str, OsString)],
    manager: Option<Pid>,
) -> io::Result<Process> {
    let image = Image::of(launch, path, removed, added)?;
    let child_of = match manager.is_some() && manager == parent() {
        true => ChildOf::OurParent,
        false => ChildOf::ThisProcess,
    };
    let (attributes, mask, group) = (&launch.attributes, Signals::only(libc::SIGHUP), Group::Ours);
    let birth = Birth { image: &image, attributes, mask, group, descriptors: Descriptors::find()?, listeners: &[] };
    clone::spawn(&birth, child_of).map_err(|failed| explain(failed, &image))
}

/// A supervised program: it knows nothing of this project.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// A relative path begins in `directory`; nothing is looked up in PATH.
    pub(crate) path: &'a Path,
    /// All arguments, the first one (argv 0) included.
    pub(crate) arguments: &'a [OsString],
    /// The whole environment: nothing is inherited.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// `None` for the directory of this process.
    pub(crate) directory: Option<&'a Path>,
    pub(crate) attributes: &'a Attributes,
    pub(crate) group: Group,
    /// The listeners that become descriptor 3, 4, …, as a service manager passes them (sd_listen_fds(3)).
    pub(crate) listeners: &'a [OwnedFd],
}

/// Starts a program as a child of this process.
///
/// Like [`spawn`], but with no signal blocked: a program that knows nothing of this project would not unblock SIGHUP.
///
/// # Errors
/// The error of chdir(2) or execve(2), by kind: `NotFound`, `PermissionDenied`; and with the object.
pub(crate) fn program(program: &Program<'_>) -> io::Result<Process> {
    let count = (OsString::from("LISTEN_FDS"), OsString::from(program.listeners.len().to_string()));
    let count = Some(count).filter(|_| !program.listeners.is_empty());
    let environment = program.environment.iter().chain(&count);
    let environment = environment.map(|(key, value)| (key.as_os_str(), value.as_os_str()));
    let image = Image::new(program.path, program.arguments, environment, program.directory)
        .map_err(|error| during(format_args!("execute {}", program.path.display()), error))?;
    let image = if count.is_some() { image.with_own_pid() } else { image };
    let (attributes, mask, group) = (program.attributes, Signals::none(), program.group);
    let listeners: Vec<RawFd> = program.listeners.iter().map(AsRawFd::as_raw_fd).collect();
    let (descriptors, listeners) = (Descriptors::find()?, &listeners[..]);
    let birth = Birth { image: &image, attributes, mask, group, descriptors, listeners };
    clone::spawn(&birth, ChildOf::ThisProcess).map_err(|failed| explain(failed, &image))
}

fn explain(failed: Failed, image: &Image) -> io::Error {
    let program = image.program.to_string_lossy();
    match failed {
        Failed::Clone(error) => during(format_args!("make a process for {program}"), error),
        Failed::Group(errno) => during(format_args!("make a process group for {program}"), errno),
        Failed::Descriptors(errno) => during(format_args!("close the descriptors of {program}"), errno),
        Failed::Directory(errno) => {
            let directory = image.directory.as_deref().unwrap_or_default().to_string_lossy();
            during(format_args!("enter {directory} to execute {program}"), errno)
        }
        Failed::Exec { errno: Errno::TOOBIG, stack } => {
            let (arguments, environment) = (&image.arguments.strings, &image.environment.strings);
            let error = io::Error::from(Errno::TOOBIG);
            let why = size::too_large(arguments, environment, stack, rustix::param::page_size());
            io::Error::new(error.kind(), format!("execute {program}: {error}: {why}"))
        }
        Failed::Exec { errno, stack: _ } => during(format_args!("execute {program}"), errno),
    }
}

/// The parent of this process; `None` if the parent is outside of this PID namespace.
pub(crate) fn parent() -> Option<Pid> {
    rustix::process::getppid().map(|pid| Pid::new(pid.as_raw_nonzero().get().unsigned_abs()))
}

/// Unblocks SIGHUP, which [`spawn`] in the previous generation has blocked.
pub(crate) fn unblock_hup() -> io::Result<()> {
    Signals::only(libc::SIGHUP).unblock()
}
