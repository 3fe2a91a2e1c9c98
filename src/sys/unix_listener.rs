//! The listeners of users on Unix sockets: claimed by the first generation, passed from generation to generation as
//! descriptors, and removed by the last one.
//!
//! SO_REUSEPORT does not exist for Unix sockets (socket(7)), and a name can be bound once: so the next generation gets the
//! listener itself, with the connections that wait in its queue.
#![expect(clippy::disallowed_methods, reason = "before the server begins, or on threads of runtime/offload.rs")]

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use socket2::SockAddr;

use super::during;
use super::unix_socket::{self, Look};
pub(crate) use super::unix_socket::{Access, FileId};
use crate::model::identity::Pid;
use crate::model::unix_address::UnixAddress;

/// The largest number of descriptors that one message passes: the kernel's own limit is 253 (`SCM_MAX_FD` in
/// include/net/scm.h, Linux 6.18).
pub(crate) const PASSED_MAX: usize = 64;

/// Why a listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("{address} is taken: another process{} listens there already", who(.by))]
    Taken { address: UnixAddress, by: Option<Pid> },
    #[error("{} is there already, and is no socket: nothing was changed", .0.display())]
    NoSocket(std::path::PathBuf),
    #[error("whether a process listens on {address} cannot be told: {error}")]
    Unknown { address: UnixAddress, error: io::Error },
    #[error("cannot listen on {address}: {error}")]
    Failed { address: UnixAddress, error: io::Error },
}

fn who(by: &Option<Pid>) -> String {
    by.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

/// Listens on an address that no living process has. The file that a dead process has left is replaced; a file that is
/// no socket is left alone. Returns the file, if the address is a path.
pub(crate) fn claim(
    address: &UnixAddress,
    access: &Access,
    backlog: u32,
) -> Result<(UnixListener, Option<FileId>), ClaimError> {
    let failed = |error| ClaimError::Failed { address: address.clone(), error };
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    match address {
        UnixAddress::Abstract(name) => {
            let name = SocketAddr::from_abstract_name(name).map_err(failed)?;
            let listener = UnixListener::bind_addr(&name).map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => ClaimError::Taken { address: address.clone(), by: None },
                _ => failed(error),
            })?;
            listener.set_nonblocking(true).map_err(failed)?;
            // std listens with a backlog of its own, which a second listen(2) changes.
            rustix::net::listen(&listener, backlog).map_err(|error| failed(error.into()))?;
            Ok((listener, None))
        }
        UnixAddress::Path(path) => {
            // Held from the look to the rename, so that two instances that start at once do not both find the name free.
            let _lock = unix_socket::lock(path.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
            check_free(path, address)?;
            let (file, listener) = unix_socket::place(path, access, backlog, None).map_err(failed)?;
            Ok((listener, Some(file)))
        }
    }
}

/// The listeners on Unix sockets that this process was given at its start, as from a service manager (sd_listen_fds(3)).
/// Each call makes new descriptors of them.
pub(crate) fn given() -> Vec<(UnixAddress, OwnedFd)> {
    let descriptors = sd_notify::listen_fds().map(Iterator::collect).unwrap_or_else(|_| Vec::new());
    descriptors.into_iter().filter_map(|number| given_as(number).ok().flatten()).collect()
}

#[expect(unsafe_code, reason = "a descriptor that was inherited has no owner in this process")]
fn given_as(number: RawFd) -> io::Result<Option<(UnixAddress, OwnedFd)>> {
    // SAFETY: the descriptor was open at the start, and stays open: nobody in this process owns and closes it.
    let listener = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()?;
    let address = socket2::SockRef::from(&listener).local_addr()?;
    let path = address.as_pathname().map(|path| UnixAddress::Path(path.to_owned()));
    let name = || Some(UnixAddress::Abstract(String::from_utf8(address.as_abstract_namespace()?.to_vec()).ok()?));
    let address = path.or_else(name);
    rustix::io::ioctl_fionbio(&listener, true)?;
    Ok(address.map(|address| (address, listener)))
}

/// Whether nobody listens at the path, and no other file is there.
fn check_free(path: &Path, address: &UnixAddress) -> Result<(), ClaimError> {
    let unknown = |error| ClaimError::Unknown { address: address.clone(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unknown(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(ClaimError::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    match unix_socket::look(&SockAddr::unix(path).map_err(unknown)?) {
        Look::Listens(by) => Err(ClaimError::Taken { address: address.clone(), by }),
        // Its process is gone: unix(7).
        Look::Nobody(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Look::Nobody(error) => Err(unknown(error)),
    }
}

/// Removes the file of a listener if its path still leads to it.
pub(crate) fn remove(path: &Path, file: FileId) {
    unix_socket::remove(path, file);
}

/// Sends bytes, and with the first of them these descriptors. Returns how many bytes were sent.
///
/// # Errors
/// Errors of sendmsg(2).
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(during("pass listeners", io::Error::from(io::ErrorKind::InvalidInput)));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// Receives bytes, and the descriptors that come with them. Returns how many bytes were received; 0 at the end of the
/// stream.
///
/// # Errors
/// Errors of recvmsg(2).
pub(crate) fn receive(socket: impl AsFd, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = part {
            descriptors.extend(passed);
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn at(path: &Path) -> UnixAddress {
        UnixAddress::Path(path.to_owned())
    }

    fn claim(address: &UnixAddress) -> Result<(UnixListener, Option<FileId>), ClaimError> {
        super::claim(address, &Access::default(), 16)
    }

    #[test]
    fn a_living_one_is_refused_and_a_dead_ones_file_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.sock");
        let (first, file) = claim(&at(&path)).expect("nobody is there");
        let me = Some(Pid::new(std::process::id()));
        assert!(matches!(claim(&at(&path)), Err(ClaimError::Taken { by, .. }) if by == me));
        // Another test may just have forked this process, whose copy of the descriptor would keep the listener open.
        rustix::net::shutdown(&first, rustix::net::Shutdown::Both).expect("it listens");
        assert!(path.exists(), "a close leaves the file");
        let (_second, another) = claim(&at(&path)).expect("nobody listens any more");
        remove(&path, file.expect("a file"));
        assert!(path.exists(), "the file is another one by now");
        remove(&path, another.expect("a file"));
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "text").expect("written");
        std::os::unix::fs::symlink("file", &link).expect("a link");
        for path in [&file, &link, &folder.path().to_owned()] {
            assert!(matches!(claim(&at(path)), Err(ClaimError::NoSocket(_))), "{}", path.display());
        }
        assert_eq!(fs::read_to_string(&file).expect("there"), "text");
    }

    #[test]
    fn an_abstract_name_is_taken_once() {
        let address = UnixAddress::Abstract(format!("cutover-test-{}", std::process::id()));
        let (first, file) = claim(&address).expect("nobody is there");
        assert_eq!(file, None);
        assert!(matches!(claim(&address), Err(ClaimError::Taken { .. })));
        drop(first);
    }

    #[test]
    fn the_permissions_and_the_owner_are_as_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.sock");
        let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let access = Access { mode: Some(0o622), user: Some(user), group: Some(group) };
        let _listener = super::claim(&at(&path), &access, 16).expect("nobody is there");
        let metadata = fs::metadata(&path).expect("there");
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.uid(), metadata.gid()), (0o622, user, group));
    }

    #[test]
    fn a_listener_is_passed_with_the_connections_in_its_queue() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.sock");
        let (listener, _) = claim(&at(&path)).expect("nobody is there");
        let _client = UnixStream::connect(&path).expect("the queue takes it");
        let (blue, green) = UnixStream::pair().expect("a pair");
        assert_eq!(send(&blue, b"x", &[listener.as_fd()]).expect("sent"), 1);
        drop(listener);
        let (mut bytes, mut passed) = ([0; 8], Vec::new());
        assert_eq!(receive(&green, &mut bytes, &mut passed).expect("received"), 1);
        let [listener] = <[OwnedFd; 1]>::try_from(passed).expect("one");
        super::super::socket::accept(&listener).expect("the connection has waited");
    }
}
