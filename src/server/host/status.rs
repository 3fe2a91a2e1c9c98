//! The status of this instance, as this generation sees it.

use std::collections::BTreeMap;

use super::Host;
use crate::model::event::Phase;
use crate::model::rollout::Rollout;
use crate::runtime::status::{Depth, Draft, Known};

impl Host {
    /// The living generations and the state of each.
    pub(super) fn draft(&mut self, rollout: &Rollout, depth: Depth) -> Draft {
        let draining = self.predecessors.draining();
        let known = Known {
            name: self.settings.name.clone(),
            addresses: self.settings.addresses[..self.settings.offered].iter().map(|address| address.bound).collect(),
            unix: self.settings.supply.listeners.own().iter().map(|own| own.address.to_string()).collect(),
            steering: self.context.groups.tier(),
            own: self.context.who(),
            connections: Some(self.connections.open()),
            kinds: Some(self.connections.kinds()),
            green: self.green.as_ref().map(|green| (green.generation, green.pid)),
            draining: draining.iter().map(|drainer| (drainer.generation, drainer.pid)).collect(),
            history: self.history.clone(),
            supervisor: None,
            processes: BTreeMap::new(),
        };
        Draft::new(known, rollout, depth)
    }

    pub(super) fn log(&mut self, phase: Phase) {
        let draining = self.predecessors.draining();
        tracing::info!(
            generation = %self.context.generation,
            pid = %self.context.pid,
            %phase,
            steering = %self.context.groups.tier(),
            connections = self.connections.open(),
            draining = ?draining.iter().map(|d| (d.generation.number(), d.pid.number())).collect::<Vec<_>>(),
            "status"
        );
    }
}
