//! Finds the other processes that listen on the address of a server.
#![expect(clippy::disallowed_methods, reason = "the doctor blocks, and says so")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::finding::Finding;
use super::instances::Instances;
use crate::model::identity::{Inode, Pid};
use crate::sys::socket::{self, Sharing, Stack};
use crate::sys::socket_owner::{self, Owner};
use crate::sys::{credentials, sock_diag, sysctl};

/// A listening socket, and the process that has it, as far as this user may see it.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    /// The owner of the socket, which must be the same for all members of a group.
    pub(super) uid: u32,
    pub(super) process: Option<Process>,
}

#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) name: String,
    pub(super) parent: Pid,
    /// The user of the process now.
    pub(super) uid: u32,
}

impl Listener {
    fn who(&self) -> String {
        match &self.process {
            Some(process) => format!("{} (pid {}, uid {})", process.name, process.pid, self.uid),
            None => format!("a process of uid {} that cannot be looked at", self.uid),
        }
    }
}

/// Examines one address. Also returns the process of the instance that serves there.
pub(super) fn examine(address: SocketAddr, instances: &Instances) -> (Vec<Finding>, Option<Pid>) {
    if address.port() == 0 {
        return (vec![Finding::ok(address.to_string(), "the system chooses a port that is free")], None);
    }
    match listeners(address) {
        Ok(all) => {
            let (mut findings, home) = judge(address, &all, instances);
            if home.is_none() {
                findings.extend(foreign(address));
            }
            (findings, home)
        }
        Err(error) => {
            let what = format!("the listeners there cannot be seen ({error})");
            (vec![Finding::note(address.to_string(), what, "permit netlink sockets (AF_NETLINK)")], None)
        }
    }
}

fn listeners(address: SocketAddr) -> std::io::Result<Vec<Listener>> {
    listeners_with(address, socket_owner::owners)
}

/// As [`listeners`], with `owners` to find the process that has each socket.
fn listeners_with(
    address: SocketAddr,
    owners: impl FnOnce(&BTreeSet<Inode>) -> BTreeMap<Inode, Owner>,
) -> std::io::Result<Vec<Listener>> {
    let mut shown = sock_diag::listeners(address.port())?;
    shown.retain(|listener| listener.takes(address));
    let owners = owners(&shown.iter().map(|listener| listener.inode).collect());
    // A generation that retires may close its listener before the owner is looked up. Such a listener has no owner, and is
    // no stranger.
    let still: BTreeSet<Inode> =
        sock_diag::listeners(address.port())?.into_iter().map(|listener| listener.inode).collect();
    shown.retain(|listener| owners.contains_key(&listener.inode) || still.contains(&listener.inode));
    Ok(shown.iter().map(|l| Listener { address: l.address, uid: l.uid, process: process(l.inode, &owners) }).collect())
}

fn process(inode: Inode, owners: &BTreeMap<Inode, Owner>) -> Option<Process> {
    let Owner { pid, name } = owners.get(&inode)?.clone();
    let credentials = credentials::of(pid).ok()?;
    Some(Process { pid, name, parent: credentials.parent, uid: credentials.uid })
}

/// A problem if the address is not one of this machine.
fn foreign(address: SocketAddr) -> Option<Finding> {
    let any_port = SocketAddr::new(address.ip(), 0);
    let error = socket::bind(any_port, Sharing::Alone, Stack::Single).err()?;
    let what = format!("no server can listen there ({error})");
    Some(Finding::problem(address.to_string(), what, "choose an address that this machine has"))
}

/// Judges the listeners on `address`, or on an address that overlaps with it. Also returns the process of the instance
/// that serves there.
fn judge(address: SocketAddr, listeners: &[Listener], instances: &Instances) -> (Vec<Finding>, Option<Pid>) {
    let (exact, beside): (Vec<&Listener>, Vec<&Listener>) = listeners.iter().partition(|l| l.address == address);
    let subject = || address.to_string();
    let processes = || exact.iter().filter_map(|l| l.process.as_ref());
    // The process of the instance or, during a rollout, the other one of its two generations.
    let home = processes().find(|p| instances.has(p.pid)).or_else(|| processes().find(|p| instances.has(p.parent)));
    let mut findings = Vec::new();
    match home {
        Some(home) => {
            findings.push(at_home(address, home, instances));
            findings.extend(dropped(address, &exact, home));
        }
        None if exact.is_empty() => findings.push(Finding::ok(subject(), "nobody listens there")),
        None => {}
    }
    let related = |l: &Listener| match (home, &l.process) {
        (Some(home), Some(p)) => p.pid == home.pid || p.parent == home.pid || home.parent == p.pid,
        _ => false,
    };
    let strangers: BTreeMap<String, &Listener> = exact.iter().filter(|l| !related(l)).map(|l| (l.who(), *l)).collect();
    findings.extend(strangers.iter().map(|(who, stranger)| strange(address, who, stranger, home, instances)));
    let beside: BTreeMap<(SocketAddr, String), &Listener> =
        beside.into_iter().filter(|l| !related(l)).map(|l| ((l.address, l.who()), l)).collect();
    findings.extend(beside.keys().map(|(other, who)| overlapping(address, *other, who)));
    (findings, home.map(|home| home.pid))
}

fn at_home(address: SocketAddr, home: &Process, instances: &Instances) -> Finding {
    let who = instances.name(home.pid).or_else(|| instances.name(home.parent)).unwrap_or_default();
    Finding::ok(address.to_string(), format!("{who} listens there (pid {}, uid {})", home.pid, home.uid))
}

/// A problem if the process is no longer the user that bound the socket.
fn dropped(address: SocketAddr, exact: &[&Listener], home: &Process) -> Option<Finding> {
    let own = exact.iter().find(|l| l.process.as_ref().is_some_and(|p| p.pid == home.pid))?;
    (own.uid != home.uid).then(|| {
        Finding::problem(
            address.to_string(),
            format!(
                "pid {} has bound the address as uid {} and is uid {} now: the next generation cannot listen there, \
                 because all sockets of a group must belong to one user",
                home.pid, own.uid, home.uid
            ),
            "start it as the user that it becomes, with AmbientCapabilities=CAP_NET_BIND_SERVICE for a port below 1024",
        )
    })
}

fn strange(
    address: SocketAddr,
    who: &str,
    stranger: &Listener,
    home: Option<&Process>,
    instances: &Instances,
) -> Finding {
    let subject = address.to_string();
    let stop = match &stranger.process {
        Some(process) => format!("stop it (pid {})", process.pid),
        None => "run cutover doctor as root to see which process that is, and stop it".to_owned(),
    };
    match home {
        Some(home) => Finding::problem(
            subject,
            format!(
                "{who} has joined the group of pid {} by SO_REUSEPORT: the slot of its listener is not known, so that \
                 reloads are not steered",
                home.pid
            ),
            stop,
        ),
        None if stranger.process.is_none() && instances.hidden(stranger.uid) => Finding::note(
            subject,
            format!("{who} listens there: it may be an instance, because that user has one"),
            "run cutover doctor as that user, or as root, to know",
        ),
        None => Finding::problem(
            subject,
            format!(
                "{who} listens there, and no control socket of that process is found: a server cannot be started there"
            ),
            format!("{stop}, or choose another address; if it is an instance, give it a folder for its control socket"),
        ),
    }
}

fn overlapping(address: SocketAddr, other: SocketAddr, who: &str) -> Finding {
    let what = if other.ip().is_unspecified() && !address.ip().is_unspecified() {
        format!(
            "{who} listens on {other}: a server on {address}, which is more specific, takes connections away from it"
        )
    } else if address.ip().is_unspecified() && !other.ip().is_unspecified() {
        format!("{who} listens on {other}, which is more specific: it gets the connections for that address")
    } else {
        format!("{who} listens on {other}, which may get connections for {address}")
    };
    let fix = "let only one of the two processes listen; a server refuses to start beside another process";
    Finding::note(address.to_string(), what, fix)
}

/// A problem if an instance that is not of this unit listens where the unit is to listen.
pub(super) fn other_than(address: SocketAddr, unit: &str, main: Option<Pid>, home: Pid) -> Option<Finding> {
    let parent = |pid: Pid| credentials::of(pid).ok().map(|process| process.parent);
    let related = |main| main == home || parent(main) == Some(home) || parent(home) == Some(main);
    (!main.is_some_and(related)).then(|| {
        let what = format!("pid {home} is no process of {unit}: the unit cannot be started there");
        Finding::problem(address.to_string(), what, format!("stop it (pid {home}), or let the unit listen elsewhere"))
    })
}

/// Whether this process may bind a port below 1024.
pub(super) fn own_right(port: u16) -> Option<Finding> {
    if port == 0 || port >= sysctl::first_unprivileged_port() {
        return None;
    }
    let subject = format!("port {port}");
    Some(match credentials::own() {
        Ok(own) if own.binds_any_port => Finding::ok(subject, "this user may bind it (CAP_NET_BIND_SERVICE)"),
        Ok(own) => Finding::problem(
            subject,
            format!("uid {} may not bind it without CAP_NET_BIND_SERVICE", own.uid),
            "AmbientCapabilities=CAP_NET_BIND_SERVICE in its unit (look at it with --unit), or \
             sysctl -w net.ipv4.ip_unprivileged_port_start=80",
        ),
        Err(error) => {
            Finding::note(subject, format!("whether it may be bound cannot be seen ({error})"), "mount /proc")
        }
    })
}

#[cfg(test)]
mod tests;
