//! The leadership of the live generation: which generation gets it next, and how a reload ended.

use std::time::Duration;

use super::{SupervisedHost, generation};
use crate::model::event::{Event, Outcome};
use crate::model::identity::Generation;
use crate::model::rollout::Rollout;
use crate::runtime::driver::Host as _;
use crate::runtime::groups::lock;
use crate::runtime::offload;
use crate::runtime::rollout_steps;
use crate::runtime::service_manager::{ServiceManager, ServiceStatus};

impl SupervisedHost {
    /// Gives green the leadership: from now on green's machine answers requests.
    pub(super) fn hand_over(&mut self, green: Generation, took: Duration) {
        let Some(child) = self.green(green) else { return };
        self.end_probing();
        self.end_following();
        self.instance.history().add(Outcome::Done { generation: green, pid: child.pid, took }, rollout_steps::now());
        // This must precede any steering by green's own machine.
        lock(&self.instance.groups).pass_on();
        self.instance.give_terminal(&child);
        // A program that sends WATCHDOG=1 itself has done so for the previous generation. The time between the last
        // notification of that generation and the first one of this generation may exceed the watchdog interval.
        self.instance.service_manager().watchdog();
        let (instance, gone) = (self.instance.clone(), self.gone());
        let (blue, inputs) = (self.child.clone(), self.inputs.clone());
        generation::enter(&instance, child);
        self.with_service_status(ServiceManager::ready);
        tokio::spawn(async move { instance.leaves(blue, inputs, gone).await });
        self.passed_on.send_replace(true);
    }

    /// Sends green away: its users are steered back, and green finishes the connections that it has.
    pub(super) fn release(&mut self, generation: Generation) {
        let Some(green) = self.green.take_if(|green| green.generation == generation) else { return };
        tracing::info!(generation = %green.generation, pid = %green.pid, "sent away, it finishes what it has");
        lock(&self.instance.groups).green_leaves();
        let (instance, by) = (self.instance.clone(), self.generation());
        tokio::spawn(async move { generation::send_away(&instance, green, by).await });
    }

    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) fn report(&mut self, outcome: Outcome, serves_on: bool) {
        rollout_steps::end(self.generation(), &outcome, serves_on);
        if let Outcome::RolledBack { generation, reason, .. } = &outcome {
            {
                let mut groups = lock(&self.instance.groups);
                groups.green_is_gone();
                groups.rest();
            }
            self.end_checking();
            if let Some(green) = self.green.take() {
                // Green's first process has ended; the processes that it has left behind are killed as well.
                offload::detach(move || green.kill());
            }
            self.instance.history().add(outcome.clone(), rollout_steps::now());
            self.failed = Some(format!("generation {generation} failed: {reason}"));
            if serves_on {
                self.with_service_status(ServiceManager::ready);
            }
        }
        self.tell(Event::Reload(outcome));
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

    fn with_service_status(&self, tell: impl FnOnce(&mut ServiceManager, &ServiceStatus<'_>)) {
        self.instance.with_service_status(self.failed.as_deref(), tell);
    }
}
