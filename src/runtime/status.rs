//! A status in two steps: what the driver knows, at once, and what only the kernel knows, on another thread.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::event::Phase;
use crate::model::identity::{Generation, Inode, Pid};
use crate::model::share::Share;
use crate::model::status::{GenerationStatus, Status};
use crate::sys::{process_age, sock_diag, socket_owner};

/// How deep to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// What this process knows.
    Own,
    /// The connections of the other generations too: the kernel is asked for all sockets of the ports, which takes some
    /// microseconds for each.
    All,
}

/// A status that still lacks what only the kernel knows.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) status: Status,
    pub(crate) depth: Depth,
    /// The processes of a generation, where it may be more than one.
    pub(crate) processes: BTreeMap<Generation, Arc<dyn Processes>>,
}

/// Many that are one generation.
pub(crate) trait Processes: Debug + Send + Sync {
    /// Those that live now. Blocks.
    fn living(&self) -> BTreeSet<Pid>;
}

impl Draft {
    /// Asks the kernel for the rest. Blocks.
    pub(crate) fn finish(mut self) -> Status {
        let ports: BTreeSet<u16> = self.status.addresses.iter().map(SocketAddr::port).collect();
        let mut connected = None;
        for generation in &mut self.status.generations {
            generation.age = process_age::of(generation.pid).ok();
            if generation.connections.is_none() && self.depth == Depth::All {
                let connected = connected.get_or_insert_with(|| connections(&ports));
                let many = self.processes.get(&generation.generation).map(|many| many.living());
                let processes = many.unwrap_or_else(|| BTreeSet::from([generation.pid]));
                let counted = connected.as_ref().zip(sockets(&processes));
                generation.connections = counted.map(|(all, own)| count(own.intersection(all).count()));
            }
        }
        self.status
    }
}

/// One generation of a status, of which no connections are known yet.
pub(crate) fn generation(generation: Generation, pid: Pid, phase: Phase, share: Share) -> GenerationStatus {
    GenerationStatus { generation, pid, phase, age: None, share, connections: None, kinds: None }
}

pub(crate) fn count(connections: usize) -> u64 {
    u64::try_from(connections).unwrap_or(u64::MAX)
}

/// The sockets of all connections to these ports, whoever has them; `None` if the kernel does not tell.
fn connections(ports: &BTreeSet<u16>) -> Option<BTreeSet<Inode>> {
    let all: Option<Vec<_>> = ports.iter().map(|&port| sock_diag::connections(port).ok()).collect();
    Some(all?.into_iter().flatten().collect())
}

/// What any of these has open; `None` if none of them may be looked at.
fn sockets(processes: &BTreeSet<Pid>) -> Option<BTreeSet<Inode>> {
    let found: Vec<_> = processes.iter().filter_map(|&pid| socket_owner::sockets_of(pid).ok()).collect();
    if found.is_empty() { None } else { Some(found.into_iter().flatten().collect()) }
}
