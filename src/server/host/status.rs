//! The status of this instance, as this generation sees it.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Host;
use crate::model::event::Phase;
use crate::model::rollout::Rollout;
use crate::model::share::Share;
use crate::model::status::{GenerationStatus, Status};
use crate::runtime::groups::lock;
use crate::runtime::status::{Depth, Draft, count, generation};

impl Host {
    /// The living generations and the state of each.
    pub(super) fn draft(&mut self, rollout: &Rollout, depth: Depth) -> Draft {
        let under_way = rollout.status(Instant::now());
        let mut generations = Vec::new();
        if let (Some(under_way), Some(green)) = (&under_way, &self.green) {
            let phase = if under_way.phase == Phase::Starting { Phase::Starting } else { Phase::Standby };
            generations.push(generation(green.generation, green.pid, phase, under_way.share));
        }
        generations.push(GenerationStatus {
            connections: Some(count(self.connections.open())),
            kinds: Some(self.connections.kinds()),
            ..generation(self.generation, self.pid, rollout.phase(), rollout.own_share())
        });
        let draining = self.predecessors.draining();
        generations.extend(draining.iter().map(|d| generation(d.generation, d.pid, Phase::Draining, Share::NONE)));
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
            supervisor: None,
        };
        Draft { status, depth, processes: BTreeMap::new() }
    }

    pub(super) fn log(&mut self, phase: Phase) {
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
