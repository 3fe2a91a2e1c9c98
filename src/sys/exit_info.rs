//! The exit status of a process that another process reaps.
#![allow(unsafe_code)]

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::ioctl::{Updater, ioctl, opcode};

/// `struct pidfd_info` in its first form (include/uapi/linux/pidfd.h, Linux 6.13 and 6.15).
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    pids: [u32; 3],
    ids: [u32; 8],
    exit_code: i32,
}

/// The bit that asks for the exit code, and that is set in the answer if the exit code is there.
const EXIT: u64 = 1 << 3;

/// The exit status once the process is reaped, from Linux 6.15 on (`pidfs_exit` in fs/pidfs.c); `None` before that, and
/// on an older kernel.
pub(super) fn of(pidfd: impl AsFd) -> Option<ExitStatus> {
    const GET_INFO: rustix::ioctl::Opcode = opcode::read_write::<Info>(0xFF, 11);
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: PIDFD_GET_INFO takes this structure, whose size is part of its number, and writes no more than that.
    let get_info = unsafe { Updater::<GET_INFO, Info>::new(&mut info) };
    // SAFETY: as above; the kernel writes plain numbers only.
    unsafe { ioctl(pidfd, get_info) }.ok()?;
    (info.mask & EXIT != 0).then(|| ExitStatus::from_raw(info.exit_code))
}
