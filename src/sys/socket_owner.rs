//! The process that has a socket, found by the links in /proc/PID/fd (proc(5)).
#![expect(
    clippy::disallowed_methods,
    reason = "procfs answers from the memory of the kernel, and `owners` is disallowed itself"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::RawFd;

use super::process_age;
use crate::model::identity::{Inode, Pid};

/// The sockets that a process has open.
///
/// # Errors
/// `EACCES` for a process of another uid, or for a process that is not dumpable.
pub(crate) fn sockets_of(pid: Pid) -> io::Result<BTreeSet<Inode>> {
    Ok(descriptors_of(pid)?.into_iter().map(|(_, inode)| inode).collect())
}

/// The descriptors of a process that are sockets, and the inodes of the sockets.
///
/// # Errors
/// As [`sockets_of`].
pub(super) fn descriptors_of(pid: Pid) -> io::Result<Vec<(RawFd, Inode)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        // A descriptor that was closed in the meantime is left out.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let inode = target.to_str().and_then(|t| t.strip_prefix("socket:[")).and_then(|t| t.strip_suffix(']'));
        let inode = inode.and_then(|i| i.parse().ok()).map(Inode);
        let fd = entry.file_name().to_str().and_then(|name| name.parse().ok());
        found.extend(fd.zip(inode));
    }
    Ok(found)
}

/// A process as it is shown to users: its name and its pid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) pid: Pid,
    pub(crate) name: String,
}

/// The owners of these sockets. A socket whose owner may not be looked at, or that has no owner, is not in the answer.
///
/// Several processes may have one socket: the workers of a server, or a child that is about to call execve(2) and has
/// all descriptors of its parent until then. The oldest process is the owner.
pub(crate) fn owners(wanted: &BTreeSet<Inode>) -> BTreeMap<Inode, Owner> {
    let mut oldest = BTreeMap::<Inode, (u64, Pid)>::new();
    let Ok(processes) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::new));
    for pid in pids {
        let Ok(sockets) = sockets_of(pid) else { continue };
        let mut shared = sockets.intersection(wanted).peekable();
        if shared.peek().is_none() {
            continue;
        }
        let Ok(started) = process_age::started(pid) else { continue };
        for inode in shared {
            let known = oldest.entry(*inode).or_insert((started, pid));
            if started < known.0 {
                *known = (started, pid);
            }
        }
    }
    oldest.into_iter().map(|(inode, (_, pid))| (inode, Owner { pid, name: name_of(pid) })).collect()
}

/// The name of a process, as ps(1) shows it; `?` if the process is gone.
pub(crate) fn name_of(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).map_or_else(|_| "?".to_owned(), |name| name.trim_end().to_owned())
}

/// Names the owner of a listening socket, such as `nginx (pid 12)`, or what else is known.
pub(crate) fn describe(inode: Inode, uid: u32) -> String {
    match owners(&BTreeSet::from([inode])).get(&inode) {
        Some(owner) => format!("{} (pid {}, uid {uid})", owner.name, owner.pid),
        None => format!("a process of uid {uid} that cannot be looked at"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::{AsFd, OwnedFd};
    use std::process::Command;

    #[test]
    fn our_own_listener_is_found_as_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let inode = crate::sys::socket::inode(listener.as_fd()).expect("fstat");
        let owners = owners(&BTreeSet::from([inode]));
        assert_eq!(owners[&inode].pid, Pid::new(std::process::id()));
        assert!(describe(inode, 0).contains(&format!("pid {}", std::process::id())));
    }

    #[test]
    fn of_two_that_have_it_the_older_one_is_the_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let inode = crate::sys::socket::inode(listener.as_fd()).expect("fstat");
        let stdin = OwnedFd::from(listener.try_clone().expect("a copy"));
        let mut child = Command::new("sleep").arg("600").stdin(stdin).spawn().expect("spawned");
        assert!(sockets_of(Pid::new(child.id())).expect("it lives").contains(&inode));
        assert_eq!(owners(&BTreeSet::from([inode]))[&inode].pid, Pid::new(std::process::id()));
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }
}
