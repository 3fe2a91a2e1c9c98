//! The control socket's file: claimed by one instance, and handed on by rename(2), so that the file never vanishes.
#![expect(
    clippy::disallowed_methods,
    reason = "whoever calls it is asked instead: `claim`, `take_over` and `remove` are disallowed themselves"
)]

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

use socket2::SockAddr;

use super::control_folder::check_length;
use super::during;
use super::unix_socket::{self, Access, FileId, Look};
use crate::model::identity::Pid;

/// The maximum number of connections in the accept queue.
const BACKLOG: i32 = 128;

/// A control socket that has its name.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    path: PathBuf,
    /// By this [`ControlSocket::remove`] checks whether the name still leads to the file.
    file: FileId,
}

/// Why a name cannot be claimed.
#[derive(Debug)]
pub(crate) enum Refused {
    /// A living process has the name; its pid, if the kernel reports the pid.
    Taken(Option<Pid>),
    Failed(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Refused {
        Refused::Failed(error)
    }
}

/// Claims the name for an instance that starts; replaces a file that a dead process has left.
///
/// # Errors
/// [`Refused::Taken`] if a living process listens there, [`Refused::Failed`] with the error of a system call.
pub(crate) fn claim(path: &Path) -> Result<(ControlSocket, UnixListener), Refused> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
    made.map_err(|e| during(format_args!("make the folder {}", folder.display()), e))?;
    // Held from the look to the rename, so that two instances that start at once do not both find the name free.
    let _lock = unix_socket::lock(folder)?;
    match living(path) {
        Some(process) => Err(Refused::Taken(process)),
        None => take_over(path, None).map_err(Refused::Failed),
    }
}

/// Takes the name over from the process that has it, if any, in one step. After `by`, the name is left alone: a later
/// generation may have taken it by then.
///
/// # Errors
/// The error of bind(2) or rename(2): no right to write in the folder, a path that is too long. `TimedOut` if the disk
/// has answered after `by`.
pub(crate) fn take_over(path: &Path, by: Option<Instant>) -> io::Result<(ControlSocket, UnixListener)> {
    // A client could not connect to a path that is longer than an address.
    check_length(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let placed = unix_socket::place(path, &Access { mode: Some(0o600), ..Access::default() }, BACKLOG, by);
    let named = placed.map_err(|e| during(format_args!("make the control socket {name}"), e));
    named.map(|(file, listener)| (ControlSocket { path: path.to_owned(), file }, listener))
}

/// Whether a living process listens at `path`, and its pid if the kernel reports the pid.
pub(crate) fn living(path: &Path) -> Option<Option<Pid>> {
    match unix_socket::look(&SockAddr::unix(path).ok()?) {
        Look::Listens(pid) => Some(pid),
        Look::Nobody(_) => None,
    }
}

impl ControlSocket {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file if it is still this socket's, and not the next generation's.
    pub(crate) fn remove(&self) {
        unix_socket::remove(&self.path, self.file);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_living_one_is_refused_and_a_dead_ones_file_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deeper").join("one.sock");
        let (_first, listener) = claim(&path).expect("nobody is there");
        match claim(&path) {
            Err(Refused::Taken(process)) => assert_eq!(process, Some(Pid::new(std::process::id()))),
            other => panic!("{other:?}"),
        }
        // Another test may just have forked this process, and the copy of the descriptor keeps the socket open after a
        // close.
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).expect("it listens");
        assert!(path.exists(), "a close leaves the file");
        claim(&path).expect("nobody listens any more");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.with_file_name("")).expect("the folder").count(), 1, "nothing is left over");
    }

    #[test]
    fn it_is_taken_over_without_a_gap_and_removed_only_by_its_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("one.sock");
        let (blue, _blue_listens) = claim(&path).expect("nobody is there");
        let (green, _green_listens) = take_over(&path, None).expect("renamed over");
        take_over(&path, Some(Instant::now())).map(drop).expect_err("too late for the name");
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1, "nothing is left over");
        blue.remove();
        assert!(path.exists());
        green.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_replaced_and_a_folder_that_cannot_be_had_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("one.sock");
        fs::write(&path, "text").expect("written");
        claim(&path).expect("a file is nobody");
        match claim(&path.join("below").join("x.sock")) {
            Err(Refused::Failed(error)) => assert!(error.to_string().contains("one.sock"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}
