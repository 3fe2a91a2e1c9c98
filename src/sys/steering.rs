//! Attaches a steering program to a group, and detaches it. Attaching and detaching need no privilege.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::during;
use crate::model::steering::Program;

/// Attaches `program` to the whole group that `listener` belongs to, and replaces the previous program.
///
/// SO_ATTACH_REUSEPORT_CBPF, socket(7), Linux 4.5 (TCP 4.6). New connections follow the program once the call has
/// returned; handshakes in flight stay with their listener.
///
/// # Errors
/// The error of setsockopt(2): `EPERM` or `ENOSYS` from a seccomp filter, `ENOPROTOOPT` from a kernel without the
/// option, `EINVAL` if the socket is in no group.
pub(crate) fn attach(listener: impl AsFd, program: &Program) -> io::Result<()> {
    set_program(listener, libc::SO_ATTACH_REUSEPORT_CBPF, program)
        .map_err(|error| during("attach a steering program (SO_ATTACH_REUSEPORT_CBPF)", error))
}

/// Once the call has returned, `listener` begins no handshake; it finishes the handshakes that it has begun.
///
/// SO_ATTACH_FILTER, socket(7). A connection accepted from `listener` has the filter too (`sk_clone`), but never gets a
/// packet that the filter drops. The option needed no privilege up to Linux commit 5d39580f68e6; since then it needs
/// CAP_NET_ADMIN on a TCP socket (as 6.18.44 shows).
pub(crate) fn ignore_syns(listener: impl AsFd) -> io::Result<()> {
    set_program(listener, libc::SO_ATTACH_FILTER, &Program::ignore_syns())
        .map_err(|error| during("ignore new handshakes (SO_ATTACH_FILTER)", error))
}

/// Once the call has returned, `listener` accepts connections on which nothing has come: a handshake that has waited for
/// that ends with the next SYN-ACK, which the kernel repeats a second after the first one, and then after longer and longer
/// times.
///
/// TCP_DEFER_ACCEPT, tcp(7); `syn_ack_recalc` in net/ipv4/inet_connection_sock.c and `tcp_check_req` in
/// net/ipv4/tcp_minisocks.c, Linux 6.18.
pub(crate) fn accept_silent(listener: impl AsFd) -> io::Result<()> {
    set(listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, &0_i32)
        .map_err(|error| during("accept silent connections (TCP_DEFER_ACCEPT)", error))
}

fn set_program(socket: impl AsFd, option: libc::c_int, program: &Program) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> = program
        .instructions()
        .iter()
        .map(|i| libc::sock_filter { code: i.code, jt: i.jump_true, jf: i.jump_false, k: i.k })
        .collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    set(socket, libc::SOL_SOCKET, option, &libc::sock_fprog { len, filter: filter.as_mut_ptr() })
}

/// Detaches the program of the group: the kernel hashes over all listeners of the group again.
///
/// SO_DETACH_REUSEPORT_BPF, socket(7), Linux 5.3. A group without a program (`ENOENT`) is no error.
pub(crate) fn detach(listener: impl AsFd) -> io::Result<()> {
    match set(listener, libc::SOL_SOCKET, libc::SO_DETACH_REUSEPORT_BPF, &0_i32) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map_err(|error| during("detach the steering program (SO_DETACH_REUSEPORT_BPF)", error)),
    }
}

fn set<T>(socket: impl AsFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: `fd` is open for as long as `socket` is borrowed; `value` is a live reference to `length` bytes. What
    // `value` points to in turn (the instructions of `sock_fprog`) outlives the call, in which the kernel copies it.
    let result = unsafe { libc::setsockopt(fd, level, option, std::ptr::from_ref(value).cast(), length) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
