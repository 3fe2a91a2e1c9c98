//! Copies of the listening sockets of another process. A copy is the same socket: an option set on the copy is set on
//! the original.
//!
//! A copy needs what ptrace(2) needs (PTRACE_MODE_ATTACH_REALCREDS, pidfd_getfd(2)): the same user, and no more
//! capabilities in the other process than in this one, or CAP_SYS_PTRACE. A container can refuse the call itself:
//! Docker's default seccomp profile allows it only together with that capability.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::{during, socket, socket_owner};
use crate::model::identity::{Inode, Pid};

/// Why a holder, or one descriptor of the holder, gave no copy. A later variant is more informative than an earlier
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// The process is gone, or has no such socket (any more).
    Gone,
    Failed,
    Refused,
}

/// The process and the descriptor that a copy was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    holder: Pid,
    fd: RawFd,
}

/// A copy of the socket `inode`, with close-on-exec, from the first of `holders` that can give one.
///
/// # Errors
/// The most informative failure: `PermissionDenied` if a holder may not be accessed (`EPERM` from pidfd_getfd(2) or a
/// seccomp filter, `EACCES` from /proc); otherwise another failure (`ENOSYS` before Linux 5.6, `EMFILE`); otherwise
/// `NotFound`.
pub(crate) fn copy(holders: impl IntoIterator<Item = Pid>, inode: Inode) -> io::Result<(OwnedFd, Place)> {
    let nobody = io::Error::new(io::ErrorKind::NotFound, "no process that was looked at has this socket");
    let mut worst = (Weight::Gone, during(format_args!("copy {inode}"), nobody));
    for holder in holders {
        match copy_from(holder, inode) {
            Ok((copy, fd)) => return Ok((copy, Place { holder, fd })),
            Err((weight, error)) if weight > worst.0 => {
                worst = (weight, during(format_args!("copy {inode} of pid {holder}"), error));
            }
            Err(_) => {}
        }
    }
    Err(worst.1)
}

/// Whether this process may copy a descriptor at all: tried on this process itself, which a process may always trace
/// (`__ptrace_may_access` in kernel/ptrace.c, Linux 6.18). The result says nothing about other processes.
///
/// # Errors
/// `PermissionDenied` (`EPERM` from a seccomp filter), `Unsupported` (`ENOSYS` from a seccomp filter, or before Linux
/// 5.6).
pub(crate) fn try_copy() -> io::Result<()> {
    let own = pidfd_open(getpid(), PidfdFlags::empty()).map_err(|e| during("pidfd_open", e))?;
    pidfd_getfd(&own, own.as_raw_fd(), PidfdGetfdFlags::empty()).map_err(|e| during("pidfd_getfd", e))?;
    Ok(())
}

/// A copy of the socket `inode` from the place of an earlier copy, if the socket is still there. Needs no lookup.
pub(crate) fn copy_again(place: Place, inode: Inode) -> Option<OwnedFd> {
    take(&hold(place.holder).ok()?, place.fd, inode).ok()
}

fn hold(holder: Pid) -> Result<OwnedFd, (Weight, io::Error)> {
    let raw = i32::try_from(holder.number()).ok().and_then(rustix::process::Pid::from_raw).ok_or_else(gone)?;
    pidfd_open(raw, PidfdFlags::empty()).map_err(|e| weighed(during("pidfd_open", e), Some(e)))
}

fn gone() -> (Weight, io::Error) {
    (Weight::Gone, io::Error::from(io::ErrorKind::NotFound))
}

fn copy_from(holder: Pid, inode: Inode) -> Result<(OwnedFd, RawFd), (Weight, io::Error)> {
    // The holder is held by pidfd before /proc is read: /proc may show a later process with the same pid, but the copy
    // never comes from that process.
    let held = hold(holder)?;
    let descriptors = socket_owner::descriptors_of(holder).map_err(|error| {
        let errno = Errno::from_io_error(&error);
        weighed(during(format_args!("read /proc/{holder}/fd"), error), errno)
    })?;
    let mut worst = gone();
    for (fd, _) in descriptors.into_iter().filter(|(_, socket)| *socket == inode) {
        match take(&held, fd, inode) {
            Ok(copy) => return Ok((copy, fd)),
            Err(error) if error.0 > worst.0 => worst = error,
            Err(_) => {}
        }
    }
    Err(worst)
}

fn take(holder: &OwnedFd, fd: RawFd, inode: Inode) -> Result<OwnedFd, (Weight, io::Error)> {
    let copy = pidfd_getfd(holder, fd, PidfdGetfdFlags::empty());
    let copy = copy.map_err(|e| weighed(during("pidfd_getfd", e), Some(e)))?;
    // The descriptor's number may have been reused since it was looked up.
    match socket::inode(&copy) {
        Ok(found) if found == inode => Ok(copy),
        Ok(_) => Err(gone()),
        Err(error) => Err((Weight::Failed, during("fstat", error))),
    }
}

fn weighed(error: io::Error, errno: Option<Errno>) -> (Weight, io::Error) {
    let weight = match errno {
        Some(Errno::PERM | Errno::ACCESS) => Weight::Refused,
        Some(Errno::SRCH | Errno::NOENT | Errno::BADF) => Weight::Gone,
        _ => Weight::Failed,
    };
    (weight, error)
}

#[cfg(test)]
mod tests;
