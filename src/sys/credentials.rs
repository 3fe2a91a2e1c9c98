//! The credentials of a process, as /proc/PID/status shows them to each user (proc_pid_status(5)).
#![expect(clippy::disallowed_methods, reason = "procfs answers from the memory of the kernel")]

use std::fs;
use std::io;

use crate::model::identity::Pid;

/// CAP_NET_BIND_SERVICE, capabilities(7).
const NET_BIND_SERVICE: u32 = 10;

/// The parent, the user and a privilege of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) parent: Pid,
    /// The effective uid: sockets that the process makes belong to this uid.
    pub(crate) uid: u32,
    /// Whether the process may bind any port.
    pub(crate) binds_any_port: bool,
}

/// The credentials of another process.
///
/// # Errors
/// `ENOENT` if the process is gone, or hidden (`hidepid=`).
pub(crate) fn of(pid: Pid) -> io::Result<Credentials> {
    read(&pid.to_string())
}

/// The credentials of this process.
///
/// # Errors
/// If /proc is not there.
pub(crate) fn own() -> io::Result<Credentials> {
    read("self")
}

/// Whether the process handles SIGHUP. The signal would end a process that does not handle it, or would have no effect.
///
/// # Errors
/// `ENOENT` if the process is gone, or hidden (`hidepid=`).
pub(crate) fn handles_hup(pid: Pid) -> io::Result<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(catches(&status, libc::SIGHUP))
}

/// SigCgt is a mask in hexadecimal; signal 1 is its lowest bit.
fn catches(status: &str, signal: libc::c_int) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}

fn read(process: &str) -> io::Result<Credentials> {
    let path = format!("/proc/{process}/status");
    let unclear = || io::Error::new(io::ErrorKind::InvalidData, format!("{path} cannot be understood"));
    parse(&fs::read_to_string(&path)?).ok_or_else(unclear)
}

fn parse(status: &str) -> Option<Credentials> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let effective = u64::from_str_radix(field("CapEff")?.trim(), 16).ok()?;
    Some(Credentials {
        parent: Pid::new(field("PPid")?.trim().parse().ok()?),
        uid: field("Uid")?.split_whitespace().nth(1)?.parse().ok()?,
        binds_any_port: effective & (1 << NET_BIND_SERVICE) != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_uid_and_the_one_capability() {
        let status = "Name:\tx\nPPid:\t7\nUid:\t0\t33\t0\t33\nCapInh:\t0\nCapEff:\t0000000000000400\n";
        let wanted = Credentials { parent: Pid::new(7), uid: 33, binds_any_port: true };
        assert_eq!(parse(status), Some(wanted));
        assert_eq!(parse("Name:\tx\n"), None);
    }

    #[test]
    fn a_caught_signal_is_its_bit_of_the_mask() {
        for (mask, hup) in
            [("0000000000000001", true), ("00000001808046ef", true), ("0000000000004002", false), ("", false)]
        {
            assert_eq!(catches(&format!("Name:\tx\nSigIgn:\t1\nSigCgt:\t{mask}\n"), libc::SIGHUP), hup, "{mask}");
        }
        assert!(handles_hup(Pid::new(0)).is_err());
    }

    #[test]
    fn this_process_is_who_it_is() {
        let own = own().expect("proc");
        assert_eq!(own.uid, rustix::process::geteuid().as_raw());
        assert_eq!(of(Pid::new(std::process::id())).expect("proc"), own);
        assert!(of(Pid::new(0)).is_err());
    }
}
