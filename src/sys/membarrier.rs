//! Waits until the previous steering program handles no packet any more.
#![allow(unsafe_code)]

use std::io;

/// Returns when every listener lookup that began before the call has ended, and sock_diag shows the handshake of each.
///
/// MEMBARRIER_CMD_GLOBAL waits for a grace period of RCU (`synchronize_rcu()` in kernel/sched/membarrier.c, Linux 4.3
/// to 6.18). The lookup for a packet, and the insertion of its request into the table, are in one read-side section of
/// RCU (`ip_local_deliver_finish` in net/ipv4/ip_input.c). Takes some 10 ms; blocks the thread.
///
/// # Errors
/// `EINVAL` on a kernel with nohz_full, `ENOSYS` or `EPERM` from a seccomp filter.
pub(crate) fn settle() -> io::Result<()> {
    let no_flags: libc::c_uint = 0;
    let any_cpu: libc::c_int = 0;
    // SAFETY: membarrier(2) takes three integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, no_flags, any_cpu) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
