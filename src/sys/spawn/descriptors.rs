//! How a child gets listeners from descriptor 3 on, and closes all descriptors above them.
#![expect(clippy::disallowed_methods, reason = "procfs answers from the memory of the kernel")]

use std::io;
use std::os::fd::RawFd;

use rustix::io::Errno;

use crate::sys::unix_listener::PASSED_MAX;

/// The first descriptor that a service manager passes (sd_listen_fds(3)).
const FIRST_PASSED: RawFd = 3;

/// Found out before the child is made, because the child may not allocate.
#[derive(Debug)]
pub(super) enum Descriptors {
    /// All at once, by close_range(2) (Linux 5.9).
    Range,
    /// One by one, those that were open before. Others that a thread opens meanwhile have close-on-exec, as the
    /// standard library sets it.
    Listed(Vec<RawFd>),
}

impl Descriptors {
    /// # Errors
    /// If close_range(2) is refused, and /proc is not there.
    pub(super) fn find() -> io::Result<Descriptors> {
        // No descriptor has this number.
        match close_range(libc::c_uint::MAX) {
            Ok(()) => Ok(Descriptors::Range),
            Err(_) => Descriptors::listed(),
        }
    }

    pub(super) fn listed() -> io::Result<Descriptors> {
        let entries = std::fs::read_dir("/proc/self/fd")?.collect::<Result<Vec<_>, _>>()?;
        let numbers = entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(Descriptors::Listed(numbers.filter(|fd| *fd > 2).collect()))
    }

    /// Closes the descriptors from `first` on. Runs in the child, and makes system calls only.
    pub(super) fn close(&self, first: RawFd) -> Result<(), Errno> {
        match self {
            Descriptors::Range => close_range(first.unsigned_abs()),
            Descriptors::Listed(all) => {
                for fd in all.iter().filter(|fd| **fd >= first) {
                    // SAFETY: the table of descriptors is the child's own (no CLONE_FILES), and the child needs no
                    // descriptor from `first` on. One that was closed meanwhile is passed over.
                    unsafe { libc::close(*fd) };
                }
                Ok(())
            }
        }
    }
}

/// Makes descriptor 3, 4, … of these listeners, and returns the next number. Runs in the child, and makes system calls only.
pub(super) fn place(listeners: &[RawFd]) -> Result<RawFd, Errno> {
    let first_free = FIRST_PASSED + RawFd::try_from(listeners.len()).map_err(|_| Errno::INVAL)?;
    // A listener may have the number that another one is to have: each gets a number above all of them first.
    let mut above = [0; PASSED_MAX];
    let above = above.get_mut(..listeners.len()).ok_or(Errno::INVAL)?;
    for (listener, above) in listeners.iter().zip(&mut *above) {
        // SAFETY: makes a new descriptor of one that is open in the child.
        *above = checked(unsafe { libc::fcntl(*listener, libc::F_DUPFD, first_free) })?;
    }
    for (place, above) in (FIRST_PASSED..).zip(above) {
        // SAFETY: the table of descriptors is the child's own (no CLONE_FILES), and the child needs nothing that has this
        // number.
        checked(unsafe { libc::dup2(*above, place) })?;
    }
    Ok(first_free)
}

fn checked(result: libc::c_int) -> Result<RawFd, Errno> {
    if result < 0 {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL));
    }
    Ok(result)
}

/// Closes the descriptors from `first` on.
fn close_range(first: libc::c_uint) -> Result<(), Errno> {
    let (last, no_flags): (_, libc::c_uint) = (libc::c_uint::MAX, 0);
    // SAFETY: called with the number that no descriptor has, or in the child, whose table of descriptors is its own (no
    // CLONE_FILES), and which needs no descriptor from `first` on.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, no_flags) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}
