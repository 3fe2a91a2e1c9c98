//! The status of this instance, as this generation sees it.

use std::collections::BTreeSet;
use std::time::Instant;

use super::Host;
use crate::model::control::{GenerationStatus, Status};
use crate::model::event::Phase;
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::Rollout;
use crate::model::share::Share;
use crate::runtime::retire::lock;
use crate::sys::{age, diag, owner};

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
    status: Status,
    depth: Depth,
}

impl Host {
    /// Who lives, and how it stands with them.
    pub(crate) fn status(&mut self, rollout: &Rollout, depth: Depth) -> Draft {
        let under_way = rollout.status(Instant::now());
        let mut generations = Vec::new();
        if let (Some(under_way), Some(green)) = (&under_way, &self.green) {
            let phase = if under_way.phase == Phase::Starting { Phase::Starting } else { Phase::Standby };
            generations.push(of(green.generation, green.pid, phase, under_way.share));
        }
        generations.push(GenerationStatus {
            connections: Some(count(self.connections.open())),
            kinds: Some(self.connections.kinds()),
            ..of(self.generation, self.pid, rollout.phase(), rollout.own_share())
        });
        let draining = self.predecessors.draining();
        generations.extend(draining.iter().map(|d| of(d.generation, d.pid, Phase::Draining, Share::NONE)));
        generations.sort_by_key(|generation| std::cmp::Reverse(generation.generation));
        let status = Status {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: self.addresses[..self.offered].iter().map(|address| address.bound).collect(),
            steering: lock(&self.groups).tier(),
            rollout: under_way,
            generations,
            last_reload: self.history.last.clone(),
            reloads_done: self.history.done,
            reloads_rolled_back: self.history.rolled_back,
        };
        Draft { status, depth }
    }

    pub(crate) fn log_status(&mut self, phase: Phase) {
        let draining = self.predecessors.draining();
        let tier = lock(&self.groups).tier();
        tracing::info!(
            generation = %self.generation,
            pid = %self.pid,
            %phase,
            steering = %tier,
            connections = self.connections.open(),
            draining = ?draining.iter().map(|d| (d.generation.number(), d.pid.number())).collect::<Vec<_>>(),
            "status"
        );
    }
}

impl Draft {
    /// Asks the kernel for the rest. Blocks.
    pub(crate) fn finish(mut self) -> Status {
        let ports: BTreeSet<u16> = self.status.addresses.iter().map(std::net::SocketAddr::port).collect();
        let mut connected = None;
        for generation in &mut self.status.generations {
            generation.age = age::of(generation.pid).ok();
            if generation.connections.is_none() && self.depth == Depth::All {
                let connected = connected.get_or_insert_with(|| connections(&ports));
                let sockets = owner::sockets_of(generation.pid).ok();
                let counted = connected.as_ref().zip(sockets).map(|(all, own)| own.intersection(all).count());
                generation.connections = counted.map(count);
            }
        }
        self.status
    }
}

/// The sockets of all connections to these ports, whoever has them; `None` if the kernel does not tell.
fn connections(ports: &BTreeSet<u16>) -> Option<BTreeSet<crate::model::identity::Inode>> {
    let all: Option<Vec<_>> = ports.iter().map(|&port| diag::connections(port).ok()).collect();
    Some(all?.into_iter().flatten().collect())
}

fn of(generation: Generation, pid: Pid, phase: Phase, share: Share) -> GenerationStatus {
    GenerationStatus { generation, pid, phase, age: None, share, connections: None, kinds: None }
}

fn count(connections: usize) -> u64 {
    u64::try_from(connections).unwrap_or(u64::MAX)
}
