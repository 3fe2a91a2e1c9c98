//! Listening Unix sockets: made beside a name and renamed over it, so that the name leads to a listener at each moment.
#![expect(clippy::disallowed_methods, reason = "the callers are asked instead: they run on threads of their own")]

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt::socket_peercred;
use socket2::{Domain, SockAddr, Socket, Type};

use super::during;
use crate::model::identity::Pid;

/// The longest wait for another process that claims a name in the same folder; a claim takes a few system calls.
const LOCKED: Duration = Duration::from_secs(1);

/// The device and the inode of the file of a socket.
pub(crate) type FileId = (u64, u64);

/// Who may connect to a socket: the owner and the permissions of its file (unix(7), "Pathname socket ownership and
/// permissions"). What is `None` is left as bind(2) makes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) mode: Option<u32>,
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
}

/// Makes a listener at `path`, in one step: a file that is there is replaced. After `by`, the name is left alone.
///
/// # Errors
/// The error of bind(2), chmod(2), chown(2), listen(2) or rename(2). `TimedOut` if the disk has answered after `by`.
pub(super) fn place(
    path: &Path,
    access: &Access,
    backlog: i32,
    by: Option<Instant>,
) -> io::Result<(FileId, UnixListener)> {
    // Short, because the whole path has to fit into 108 bytes (unix(7)).
    let beside = path.with_file_name(format!(".{}", std::process::id()));
    let what = |doing: &str| format!("{doing} {} in {}", path.display(), path.with_file_name("").display());
    // An earlier process with this pid may have left a file.
    let _ = fs::remove_file(&beside);
    let placed = listen_at(&beside, access, backlog).map_err(|e| during(what("bind"), e)).and_then(|listener| {
        let metadata = fs::symlink_metadata(&beside)?;
        if by.is_some_and(|by| Instant::now() >= by) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        fs::rename(&beside, path).map_err(|e| during(what("name"), e))?;
        Ok(((metadata.dev(), metadata.ino()), listener))
    });
    if placed.is_err() {
        let _ = fs::remove_file(&beside);
    }
    placed
}

/// The owner and the permissions are set before listen(2), so that nobody else can connect in between.
fn listen_at(path: &Path, access: &Access, backlog: i32) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    if access.user.is_some() || access.group.is_some() {
        std::os::unix::fs::chown(path, access.user, access.group).map_err(|e| during("set the owner", e))?;
    }
    if let Some(mode) = access.mode {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// What is found at an address.
pub(super) enum Look {
    /// A process listens; its pid, if the kernel reports the pid.
    Listens(Option<Pid>),
    /// Nobody listens, or it cannot be told.
    Nobody(io::Error),
}

/// Looks whether a process listens at this address.
pub(super) fn look(address: &SockAddr) -> Look {
    let made = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None);
    let connected = made.and_then(|socket| socket.connect(address).map(|()| socket));
    match connected {
        // For a listener, these are the credentials of the process that called listen(2): unix(7).
        Ok(socket) => {
            let peer = socket_peercred(&socket).ok().and_then(|c| u32::try_from(c.pid.as_raw_pid()).ok());
            Look::Listens(peer.map(Pid::new))
        }
        // The accept queue is full, so a process listens.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Look::Listens(None),
        Err(error) => Look::Nobody(error),
    }
}

/// A lock for those who claim a name in this folder, until it is dropped.
pub(super) fn lock(folder: &Path) -> io::Result<File> {
    let file = File::open(folder).map_err(|e| during(format_args!("open the folder {}", folder.display()), e))?;
    let began = Instant::now();
    // A process that may read the folder could hold the lock for ever. That must not keep a server from its work: after
    // `LOCKED` the claim goes on without the lock.
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() && began.elapsed() < LOCKED {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(file)
}

/// Removes the file at `path` if it is this one.
pub(super) fn remove(path: &Path, file: FileId) {
    if fs::symlink_metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == file) {
        let _ = fs::remove_file(path);
    }
}
