//! The office of the live generation: who has it, who gets it next, and how a reload ended.

use std::time::Duration;

use super::{Host, Office};
use crate::model::event::{Event as Told, Outcome};
use crate::model::identity::{Generation, Pid};
use crate::model::message::{Drainer, FromBlue, GroupOrder, History};
use crate::runtime::course;
use crate::runtime::driver::Host as _;
use crate::runtime::handover::ToBlue;
use crate::runtime::pid_file;
use crate::runtime::retire::lock;

impl Host {
    /// Passes the office on: the PID file and the service manager first, so that green's own words count when it speaks.
    pub(super) fn hand_over(&mut self, green: Generation, took: Duration) {
        let Some(pid) = self.with_green(green, |process| process.pid) else { return };
        self.end_probing();
        lock(&self.groups).begin_to_retire();
        self.write_pid_file(pid);
        self.voice.main_pid(pid);
        self.office = Office::PassedOn;
        let draining = self.predecessors.join(self.generation, self.pid);
        let mut history = self.history.clone();
        history.add(Outcome::Done { generation: green, pid, took }, course::now());
        let passed_on = self.passed_on.clone();
        self.passing_on = self.with_green(green, |process| {
            process.handover.send(&FromBlue::Live { draining, history });
            // Any other program than this one does not answer.
            let live = process.handover.is_heard().then(|| process.handover.live());
            tokio::spawn(async move {
                if let Some(live) = live {
                    live.await;
                }
                passed_on.send_replace(true);
            })
        });
    }

    pub(crate) fn become_live(&mut self) {
        let (generation, pid) = (self.generation, self.pid);
        self.office = Office::Held;
        if let Some(control) = &mut self.control {
            control.open();
        }
        self.write_pid_file(pid);
        self.tell_ready();
        // At once: the time of the generation before runs on for this one.
        self.voice.watchdog();
        tracing::info!(%generation, %pid, "live");
        self.to_blue.iter().for_each(ToBlue::live);
    }

    /// What the generation before knew.
    pub(super) fn inherit(&mut self, draining: &[Drainer], history: History) {
        self.predecessors.learn(draining);
        self.history = history;
    }

    /// The generation before holds no listener any more: from now on this one steers the groups.
    pub(super) fn take_over_groups(&self, told: &[GroupOrder]) {
        let mut groups = lock(&self.groups);
        groups.learn(told);
        groups.gate();
    }

    /// Users are steered back, and what green has of them it finishes.
    pub(super) fn release(&mut self, generation: Generation) {
        let Some(green) = self.green.take_if(|green| green.generation == generation) else { return };
        tracing::info!(generation = %green.generation, pid = %green.pid, "sent away, it finishes what it has");
        lock(&self.groups).green_leaves();
        self.predecessors.add(green.generation, green.pid, green.hold());
        green.release(self.release);
    }

    pub(super) fn report(&mut self, outcome: Outcome, serves_on: bool) {
        course::end(self.generation, &outcome, serves_on);
        if let Outcome::RolledBack { generation, reason, .. } = &outcome {
            lock(&self.groups).green_is_gone();
            self.green = None;
            self.history.add(outcome.clone(), course::now());
            self.failed = Some(format!("generation {generation} failed: {reason}"));
            if serves_on {
                self.tell_ready();
            }
        }
        self.tell(Told::Reload(outcome));
    }

    fn write_pid_file(&self, pid: Pid) {
        let Some(path) = &self.pid_file else { return };
        if let Err(error) = pid_file::write(path, pid) {
            tracing::warn!(%error, "ignoring");
        }
    }
}
