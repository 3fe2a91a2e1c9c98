//! The status of this instance, as its live generation sees it.

use std::sync::Arc;

use super::SupervisedHost;
use crate::model::identity::Pid;
use crate::model::rollout::Rollout;
use crate::runtime::status::{Depth, Draft, Known, Processes};

impl SupervisedHost {
    pub(super) fn draft(&self, rollout: &Rollout, depth: Depth) -> Draft {
        let draining = self.instance.draining();
        let all = draining.iter().chain([&self.child]).chain(self.next.green()).cloned();
        let processes = all.map(|child| (child.generation, child as Arc<dyn Processes>)).collect();
        let known = Known {
            name: self.instance.name.clone(),
            addresses: self.instance.addresses(),
            unix: self.instance.unix.addresses(),
            steering: self.context.groups.tier(),
            own: self.context.who(),
            connections: None,
            kinds: None,
            green: self.next.green().map(|green| (green.generation, green.pid)),
            draining: draining.iter().map(|child| (child.generation, child.pid)).collect(),
            history: self.instance.history().clone(),
            supervisor: Some(Pid::new(std::process::id())),
            processes,
        };
        Draft::new(known, rollout, depth)
    }
}
