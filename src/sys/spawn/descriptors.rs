//! How a child closes all descriptors above 2.
#![expect(clippy::disallowed_methods, reason = "procfs answers from the memory of the kernel")]

use std::io;
use std::os::fd::RawFd;

use rustix::io::Errno;

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

    /// Runs in the child, and makes system calls only.
    pub(super) fn close(&self) -> Result<(), Errno> {
        match self {
            Descriptors::Range => close_range(3),
            Descriptors::Listed(all) => {
                for fd in all {
                    // SAFETY: the table of descriptors is the child's own (no CLONE_FILES), and the child needs no
                    // descriptor above 2. One that was closed meanwhile is passed over.
                    unsafe { libc::close(*fd) };
                }
                Ok(())
            }
        }
    }
}

/// Closes the descriptors from `first` on.
fn close_range(first: libc::c_uint) -> Result<(), Errno> {
    let (last, no_flags): (_, libc::c_uint) = (libc::c_uint::MAX, 0);
    // SAFETY: called with the number that no descriptor has, or in the child, whose table of descriptors is its own (no
    // CLONE_FILES), and which needs no descriptor above 2.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, no_flags) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}
