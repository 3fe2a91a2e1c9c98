//! A status in two steps: first what the driver knows, at once; then what only the kernel knows, on another thread.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::model::event::Phase;
use crate::model::handover::History;
use crate::model::identity::{Generation, Inode, Pid};
use crate::model::rollout::Rollout;
use crate::model::share::Share;
use crate::model::status::{ConnectionKinds, GenerationStatus, Status};
use crate::model::steering::SteeringMode;
use crate::sys::{process_age, sock_diag, socket_owner};

/// Which data a status includes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Only what this process knows.
    Own,
    /// The connections of the other generations too: the kernel is asked for all sockets of the ports, which takes some
    /// microseconds for each socket.
    All,
}

/// A status that still lacks what only the kernel knows.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) status: Status,
    pub(crate) depth: Depth,
    /// The processes of each generation that may have more than one process.
    pub(crate) processes: BTreeMap<Generation, Arc<dyn Processes>>,
}

/// The processes of one generation.
pub(crate) trait Processes: Debug + Send + Sync {
    /// The processes that are alive now. Blocks.
    fn living(&self) -> BTreeSet<Pid>;
}

/// What a host knows of the generations of its instance.
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) unix: Vec<String>,
    pub(crate) steering: SteeringMode,
    pub(crate) own: (Generation, Pid),
    pub(crate) connections: Option<usize>,
    pub(crate) kinds: Option<ConnectionKinds>,
    /// The next generation, if it has a process.
    pub(crate) green: Option<(Generation, Pid)>,
    pub(crate) draining: Vec<(Generation, Pid)>,
    pub(crate) history: History,
    pub(crate) supervisor: Option<Pid>,
    pub(crate) processes: BTreeMap<Generation, Arc<dyn Processes>>,
}

impl Draft {
    /// The status of an instance, as the generation sees it that runs `rollout`.
    pub(crate) fn new(known: Known, rollout: &Rollout, depth: Depth) -> Draft {
        let under_way = rollout.status(Instant::now());
        let mut generations = Vec::new();
        if let (Some(under_way), Some((green, pid))) = (&under_way, known.green) {
            let phase = if under_way.phase == Phase::Starting { Phase::Starting } else { Phase::Standby };
            generations.push(generation(green, pid, phase, under_way.share));
        }
        let (me, pid) = known.own;
        generations.push(GenerationStatus {
            connections: known.connections.map(count),
            kinds: known.kinds,
            ..generation(me, pid, rollout.phase(), rollout.own_share())
        });
        generations.extend(known.draining.iter().map(|&(me, pid)| generation(me, pid, Phase::Draining, Share::NONE)));
        generations.sort_by_key(|generation| Reverse(generation.generation));
        let status = Status {
            name: known.name,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: known.addresses,
            unix: known.unix,
            steering: known.steering,
            rollout: under_way,
            generations,
            last_reload: known.history.last,
            reloads_done: known.history.done,
            reloads_rolled_back: known.history.rolled_back,
            supervisor: known.supervisor,
        };
        Draft { status, depth, processes: known.processes }
    }

    /// Completes the status with what only the kernel knows. Blocks.
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

/// One generation of a status, whose connections are not known yet.
fn generation(generation: Generation, pid: Pid, phase: Phase, share: Share) -> GenerationStatus {
    GenerationStatus { generation, pid, phase, age: None, share, connections: None, kinds: None }
}

fn count(connections: usize) -> u64 {
    u64::try_from(connections).unwrap_or(u64::MAX)
}

/// The sockets of all connections to these ports, of any process; `None` if sock_diag fails.
fn connections(ports: &BTreeSet<u16>) -> Option<BTreeSet<Inode>> {
    let all: Option<Vec<_>> = ports.iter().map(|&port| sock_diag::connections(port).ok()).collect();
    Some(all?.into_iter().flatten().collect())
}

/// The sockets that any of these processes has open; `None` if no process may be looked at.
fn sockets(processes: &BTreeSet<Pid>) -> Option<BTreeSet<Inode>> {
    let found: Vec<_> = processes.iter().filter_map(|&pid| socket_owner::sockets_of(pid).ok()).collect();
    if found.is_empty() { None } else { Some(found.into_iter().flatten().collect()) }
}
