//! Starts the next generation as this one was started, or another program, with nothing but descriptors 0, 1 and 2.
#![allow(unsafe_code)]

mod child;
mod image;
mod sibling;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io;
use std::path::Path;

use self::image::Image;
use super::during;
use super::launch::Launch;
use super::process::Process;
use super::signals::Signals;
use crate::model::identity::Pid;

pub(crate) use self::image::Group;

/// Starts `path` as this process was started: arguments, environment (less `removed`, plus `added`), directory.
///
/// Descriptors above 2 are closed, those without close-on-exec included; every signal has its default disposition, and
/// none is blocked but SIGHUP: the next generation unblocks it when it can handle it ([`unblock_hup`]), so that a HUP sent
/// to the whole group does not kill it in its first millisecond. A file that is no program is an error, and not given to a
/// shell. Blocks the thread until exec has happened.
///
/// It becomes a child of this process, or of this one's parent if that is `manager`, which reaps whatever it gets.
///
/// # Errors
/// What clone(2), chdir(2) or execve(2) say.
pub(crate) fn spawn(
    launch: &Launch,
    path: &Path,
    removed: &[&str],
    added: &[(&str, OsString)],
    manager: Option<Pid>,
) -> io::Result<Process> {
    let image = Image::of(launch, path, removed, added)?;
    let as_child = || child::spawn(&image, &Signals::only(libc::SIGHUP), Group::Ours);
    let spawned = match manager.is_some() && manager == parent() {
        // A kernel before Linux 5.9, the first process of its PID namespace, which has no siblings, or a seccomp filter.
        true => sibling::spawn(&image).or_else(|error| match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EINVAL | libc::EPERM) => as_child(),
            _ => Err(error),
        }),
        false => as_child(),
    };
    spawned.map_err(|error| during(format_args!("execute {}", path.display()), error))
}

/// A program that is supervised: it knows nothing of this project.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// A relative one begins in `directory`; nothing is looked up in PATH.
    pub(crate) path: &'a Path,
    /// All of them, the first one (argv 0) included.
    pub(crate) arguments: &'a [OsString],
    /// All of it: nothing is inherited.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// `None` for the one of this process.
    pub(crate) directory: Option<&'a Path>,
    pub(crate) group: Group,
}

/// Starts a program as a child of this process.
///
/// Like [`spawn`], but with no signal blocked at all: nobody in it would unblock SIGHUP.
///
/// # Errors
/// What chdir(2) or execve(2) say, by kind: `NotFound`, `PermissionDenied`. posix_spawn(3) does not tell which of the two
/// calls it was, so the message names the directory too.
pub(crate) fn program(program: &Program<'_>) -> io::Result<Process> {
    let environment = program.environment.iter().map(|(key, value)| (key.as_os_str(), value.as_os_str()));
    let spawned = Image::new(program.path, program.arguments, environment, program.directory)
        .and_then(|image| child::spawn(&image, &Signals::none(), program.group));
    spawned.map_err(|error| match program.directory {
        Some(directory) => during(format_args!("execute {} in {}", program.path.display(), directory.display()), error),
        None => during(format_args!("execute {}", program.path.display()), error),
    })
}

/// The process whose child this one is; `None` if that is outside of this PID namespace.
pub(crate) fn parent() -> Option<Pid> {
    rustix::process::getppid().map(|pid| Pid::new(pid.as_raw_nonzero().get().unsigned_abs()))
}

/// Lets SIGHUP in again after [`spawn`] in the generation before has blocked it.
pub(crate) fn unblock_hup() -> io::Result<()> {
    Signals::only(libc::SIGHUP).unblock()
}
