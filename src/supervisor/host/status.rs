//! The status of this instance, as its live generation sees it.

use std::sync::Arc;
use std::time::Instant;

use super::SupervisedHost;
use crate::model::event::Phase;
use crate::model::identity::Pid;
use crate::model::rollout::Rollout;
use crate::model::share::Share;
use crate::model::status::Status;
use crate::runtime::groups::lock;
use crate::runtime::status::{Depth, Draft, Processes, generation};

impl SupervisedHost {
    pub(super) fn draft(&mut self, rollout: &Rollout, depth: Depth) -> Draft {
        let under_way = rollout.status(Instant::now());
        let draining = self.instance.draining();
        let mut generations = Vec::new();
        if let (Some(under_way), Some(green)) = (&under_way, &self.green) {
            let phase = if under_way.phase == Phase::Starting { Phase::Starting } else { Phase::Standby };
            generations.push(generation(green.generation, green.pid, phase, under_way.share));
        }
        generations.push(generation(self.child.generation, self.child.pid, rollout.phase(), rollout.own_share()));
        let of = |phase| draining.iter().map(move |child| generation(child.generation, child.pid, phase, Share::NONE));
        generations.extend(of(Phase::Draining));
        generations.sort_by_key(|generation| std::cmp::Reverse(generation.generation));
        let history = self.instance.history().clone();
        let status = Status {
            name: self.instance.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: self.instance.addresses(),
            steering: lock(&self.instance.groups).tier(),
            rollout: under_way,
            generations,
            last_reload: history.last,
            reloads_done: history.done,
            reloads_rolled_back: history.rolled_back,
            supervisor: Some(Pid::new(std::process::id())),
        };
        let all = draining.into_iter().chain([self.child.clone()]).chain(self.green.clone());
        let processes = all.map(|child| (child.generation, child as Arc<dyn Processes>)).collect();
        Draft { status, depth, processes }
    }
}
