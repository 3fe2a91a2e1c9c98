//! The leadership of the live generation: which generation gets it next, and how a reload ended.

use std::time::Duration;

use super::{SupervisedHost, generation};
use crate::model::event::Outcome;
use crate::model::identity::Generation;
use crate::model::rollout::Rollout;
use crate::runtime::context::now;
use crate::runtime::groups::Table;
use crate::runtime::host::Host as _;
use crate::runtime::service_manager::{ServiceManager, ServiceStatus};

impl SupervisedHost {
    /// Gives green the leadership: from now on green's machine answers requests.
    pub(super) fn pass_on(&mut self, green: Generation, took: Duration) {
        let Some(child) = self.next.of(green).cloned() else { return };
        self.instance.history().add(Outcome::Done { generation: green, pid: child.pid, took }, now());
        // This must precede any steering by green's own machine.
        self.context.groups.post(Table::pass_on);
        self.instance.give_terminal(&child);
        // A program that sends WATCHDOG=1 itself has done so for the previous generation. The time between the last
        // notification of that generation and the first one of this generation may exceed the watchdog interval.
        self.instance.service_manager().watchdog();
        let (instance, gone) = (self.instance.clone(), self.gone());
        let (blue, inputs) = (self.child.clone(), self.context.inputs.clone());
        generation::enter(&instance, child);
        self.tell_ready();
        tokio::spawn(async move { instance.leaves(blue, inputs, gone).await });
        self.context.passed_on.send_replace(true);
    }

    /// Sends green away: its users are steered back, and green finishes the connections that it has.
    pub(super) fn send_away(&mut self, generation: Generation) {
        let Some(green) = self.next.remove(generation) else { return };
        tracing::info!(generation = %green.generation, pid = %green.pid, "rolled back, the generation finishes its connections");
        let steered_back = self.context.groups.run(Table::green_leaves);
        let (instance, by) = (self.instance.clone(), self.generation());
        tokio::spawn(async move {
            // A panic leaves the groups steered back: that was the operation before.
            let _ = steered_back.await;
            generation::send_away(&instance, green, by).await;
        });
    }

    pub(super) fn tell_manager(&mut self, rollout: &Rollout) {
        if !self.instance.is_live(self.generation()) {
            return;
        }
        if !self.child.pings() {
            self.instance.service_manager().watchdog();
        }
        self.with_service_status(|service_manager, service_status| service_manager.heartbeat(rollout, service_status));
    }

    pub(super) fn with_service_status(&self, tell: impl FnOnce(&mut ServiceManager, &ServiceStatus<'_>)) {
        self.instance.with_service_status(self.context.failed.as_deref(), tell);
    }
}
