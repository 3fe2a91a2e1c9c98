//! Makes single system calls fail in a program that is about to be started, as a sandbox does.
#![allow(unsafe_code, reason = "seccomp(2) has no safe interface in the standard library")]

use std::os::unix::process::CommandExt;
use std::process::Command;

/// A system call that fails with EPERM.
#[derive(Clone, Copy, Debug)]
pub enum Refused {
    /// setsockopt(2) with this option, at any level.
    SocketOption(i32),
    /// membarrier(2).
    Membarrier,
    /// socket(2) with this address family.
    Family(i32),
    /// pidfd_getfd(2).
    PidfdGetfd,
    /// setfsuid(2).
    Setfsuid,
    /// clone(2) with exactly these flags.
    Clone(i32),
    /// close_range(2).
    CloseRange,
}

// Offsets in struct seccomp_data (seccomp(2)). Those of arguments are the low halves on a little-endian machine.
const NUMBER: u32 = 0;
const FIRST_ARGUMENT: u32 = 16;
const THIRD_ARGUMENT: u32 = 32;

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

impl Refused {
    /// The number of the system call, and the offset and the required value of one argument.
    fn call(self) -> (libc::c_long, Option<(u32, u32)>) {
        match self {
            Refused::SocketOption(option) => (libc::SYS_setsockopt, Some((THIRD_ARGUMENT, option.cast_unsigned()))),
            Refused::Membarrier => (libc::SYS_membarrier, None),
            Refused::PidfdGetfd => (libc::SYS_pidfd_getfd, None),
            Refused::Clone(flags) => (libc::SYS_clone, Some((FIRST_ARGUMENT, flags.cast_unsigned()))),
            Refused::CloseRange => (libc::SYS_close_range, None),
            Refused::Setfsuid => (libc::SYS_setfsuid, None),
            Refused::Family(family) => (libc::SYS_socket, Some((FIRST_ARGUMENT, family.cast_unsigned()))),
        }
    }

    /// Instructions that return EPERM for this call, and fall through for any other.
    fn instructions(self) -> Vec<libc::sock_filter> {
        let i = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
        let (number, argument) = self.call();
        let number = u32::try_from(number).expect("a small number");
        let refuse = i(RETURN, 0, 0, ERRNO | libc::EPERM.cast_unsigned());
        match argument {
            None => vec![i(LOAD, 0, 0, NUMBER), i(JUMP_EQUAL, 0, 1, number), refuse],
            Some((place, value)) => vec![
                i(LOAD, 0, 0, NUMBER),
                i(JUMP_EQUAL, 0, 3, number),
                i(LOAD, 0, 0, place),
                i(JUMP_EQUAL, 0, 1, value),
                refuse,
            ],
        }
    }
}

/// Makes these calls fail in the program and in all its descendants.
pub fn refuse(command: &mut Command, refused: &[Refused]) {
    let mut filter: Vec<_> = refused.iter().flat_map(|one| one.instructions()).collect();
    filter.push(libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: ALLOW });
    let apply = move || {
        let program = libc::sock_fprog { len: u16::try_from(filter.len()).unwrap_or(0), filter: filter.as_mut_ptr() };
        // SAFETY: the call takes integers only. Without this call an unprivileged process may set no filter.
        let allowed = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        // SAFETY: the pointer is valid, and the instructions live in this closure.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        if allowed == 0 && set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure only makes system calls, and does not allocate.
    unsafe { command.pre_exec(apply) };
}
