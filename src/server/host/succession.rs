//! The leadership of the live generation: who has it, who gets it next, and how a reload ended.

use std::time::Duration;

use super::{Host, HostEvent, Leadership};
use crate::model::event::{Event, Outcome};
use crate::model::handover::{Drainer, FromBlue, GroupOrder, History};
use crate::model::identity::Generation;
use crate::runtime::control::Control;
use crate::runtime::driver::Host as _;
use crate::runtime::groups::lock;
use crate::runtime::offload::FILES_MAX;
use crate::runtime::rollout_steps;
use crate::server::handover::ToBlue;

/// How long green waits for its leadership where the service manager does not read that green is the main process. Longer helps
/// nobody: a manager that reads takes microseconds.
const HEARD: Duration = Duration::from_millis(200);

impl Host {
    /// Passes the leadership on: the PID file and the service manager first, so that green's own words count when it speaks. They may
    /// not answer, and green is told all the same.
    pub(super) fn hand_over(&mut self, green: Generation, took: Duration) {
        let Some(pid) = self.with_green(green, |process| process.pid) else { return };
        self.end_probing();
        lock(&self.groups).begin_to_retire();
        self.leadership = Leadership::PassedOn;
        let draining = self.predecessors.join(self.generation, self.pid);
        let mut history = self.history.clone();
        history.add(Outcome::Done { generation: green, pid, took }, rollout_steps::now());
        let (passed_on, pid_file, manager) =
            (self.passed_on.clone(), self.pid_file.clone(), self.service_manager.manager());
        self.passing_on = self.with_green(green, |process| {
            let handover = process.handover.clone();
            tokio::spawn(async move {
                if let Some(pid_file) = pid_file {
                    pid_file.write(pid).await;
                }
                manager.main_pid(pid);
                let _ = tokio::time::timeout(HEARD, manager.delivered()).await;
                handover.send(&FromBlue::Live { draining, history });
                // Any other program than this one does not answer.
                if handover.is_there() {
                    handover.live().await;
                }
                passed_on.send_replace(true);
            })
        });
    }

    /// Takes the leadership: who asks is answered by this generation from now on.
    pub(crate) fn become_live(&mut self) {
        self.leadership = Leadership::Held;
        self.tell_ready();
        // At once: the time of the generation before runs on for this one.
        self.service_manager.watchdog();
    }

    /// Takes the control socket over ([`HostEvent::Control`]), and writes the PID file. Waits for them for [`FILES_MAX`] at most.
    pub(crate) fn take_files(&self) -> impl Future<Output = ()> + Send + use<> {
        let (pid, pid_file, host_events) = (self.pid, self.pid_file.clone(), self.host_events.clone());
        let taking = self.control.as_ref().map(Control::take_over);
        async move {
            let control = tokio::spawn(async move {
                if let Some(taking) = taking
                    && let Some(taken) = taking.await
                {
                    // The driver is gone only when nobody asks it any more.
                    let _ = host_events.send(HostEvent::Control(taken)).await;
                }
            });
            let written = async {
                if let Some(pid_file) = pid_file {
                    pid_file.write(pid).await;
                }
            };
            if let (Err(_), ()) = tokio::join!(tokio::time::timeout(FILES_MAX, control), written) {
                tracing::warn!("the folder of the control socket does not answer; going on without it, signals work");
            }
        }
    }

    /// The generation before needs its own files no longer.
    pub(crate) fn has_files(&self) {
        tracing::info!(generation = %self.generation, pid = %self.pid, "live");
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
        groups.steer_here();
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
        rollout_steps::end(self.generation, &outcome, serves_on);
        if let Outcome::RolledBack { generation, reason, .. } = &outcome {
            lock(&self.groups).green_is_gone();
            self.green = None;
            self.history.add(outcome.clone(), rollout_steps::now());
            self.failed = Some(format!("generation {generation} failed: {reason}"));
            if serves_on {
                self.tell_ready();
            }
        }
        self.tell(Event::Reload(outcome));
    }
}
