//! The leadership of the live generation: which generation has it, which one gets it next, and how a reload ended.

use std::time::Duration;

use super::{Host, HostEvent, Leadership};
use crate::model::event::Outcome;
use crate::model::handover::{Drainer, FromBlue, GroupOrder, History};
use crate::model::identity::Generation;
use crate::runtime::context::now;
use crate::runtime::control::Control;
use crate::runtime::groups::Table;
use crate::server::handover::ToBlue;

/// How long green waits for its leadership if the service manager does not read that green is the main process. A
/// longer wait has no use: a service manager that reads takes microseconds.
const HEARD: Duration = Duration::from_millis(200);

impl Host {
    /// Passes the leadership on. The PID file and the service manager come first, so that green's own notifications
    /// count as soon as green sends them. If the disk or the service manager does not answer, green gets the leadership
    /// all the same.
    pub(super) fn pass_on(&mut self, green: Generation, took: Duration) {
        let Some(pid) = self.with_green(green, |process| process.pid) else { return };
        self.context.groups.post(Table::begin_to_retire);
        self.leadership = Leadership::PassedOn;
        let draining = self.predecessors.join(self.context.generation, self.context.pid);
        let mut history = self.history.clone();
        history.add(Outcome::Done { generation: green, pid, took }, now());
        let (passed_on, pid_file, manager) =
            (self.context.passed_on.clone(), self.pid_file.clone(), self.service_manager.manager());
        self.passing_on = self.with_green(green, |process| {
            let handover = process.handover.clone();
            tokio::spawn(async move {
                if let Some(pid_file) = pid_file {
                    pid_file.write(pid).await;
                }
                manager.main_pid(pid);
                let _ = tokio::time::timeout(HEARD, manager.delivered()).await;
                handover.send(&FromBlue::Live { draining, history });
                // A program that does not speak the handover protocol does not answer.
                if handover.is_there() {
                    handover.live().await;
                }
                passed_on.send_replace(true);
            })
        });
    }

    /// Begins without a generation before this one. The files come before READY=1: a process that waits for READY=1
    /// may look for them.
    pub(crate) async fn begin_alone(&mut self) {
        // A panic is logged, and leaves the groups to the kernel.
        let _ = self.context.groups.run(Table::steer_here).await;
        self.accept_on_unix();
        self.take_files().await;
        self.take_leadership();
        self.has_files();
    }

    /// Takes the leadership: from now on this generation answers the requests to the instance.
    pub(super) fn take_leadership(&mut self) {
        self.leadership = Leadership::Held;
        self.tell_serving();
        // At once, because the watchdog interval of the previous generation continues for this one.
        self.service_manager.watchdog();
    }

    /// Takes over the control socket ([`HostEvent::Control`]), and writes the PID file. Waits for both for
    /// [`FILES_MAX`](crate::runtime::offload::FILES_MAX) at most.
    pub(super) fn take_files(&self) -> impl Future<Output = ()> + Send + use<> {
        let (pid, pid_file) = (self.context.pid, self.pid_file.clone());
        let taken = self.take_control();
        async move {
            let written = async {
                if let Some(pid_file) = pid_file {
                    pid_file.write(pid).await;
                }
            };
            tokio::join!(taken, written);
        }
    }

    /// Takes over the control socket, if that was not done yet ([`HostEvent::Control`]).
    pub(super) fn take_control(&self) -> impl Future<Output = ()> + Send + use<> {
        let (taking, host_events) = (self.control.as_ref().map(Control::take_over), self.host_events.clone());
        async move {
            if let Some(taking) = taking
                && let Some(taken) = taking.await
            {
                // An error means that the driver is gone, and no longer needs the event.
                let _ = host_events.send(HostEvent::Control(taken)).await;
            }
        }
    }

    /// Tells the previous generation that it no longer needs its own files.
    pub(super) fn has_files(&self) {
        tracing::info!(generation = %self.context.generation, pid = %self.context.pid, "live");
        self.to_blue.iter().for_each(ToBlue::live);
    }

    /// Takes on the draining generations and the history of the previous generation.
    pub(super) fn inherit(&mut self, draining: &[Drainer], history: History) {
        self.predecessors.learn(draining);
        self.history = history;
    }

    /// The previous generation holds no listener any more: from now on this generation steers the groups, unless it
    /// leaves (`None`).
    pub(super) fn take_over_groups(&self, told: Option<Vec<GroupOrder>>) {
        let Some(to_blue) = self.to_blue.clone() else { return };
        self.context.groups.post(move |table| {
            if let Some(told) = told {
                table.learn(&told);
                table.steer_here();
            }
            to_blue.mark_taken_over();
        });
    }

    /// Sends green away: its users are steered back, and green finishes the connections that it has.
    pub(super) fn send_away(&mut self, generation: Generation) {
        let Some(green) = self.green.take_if(|green| green.generation == generation) else { return };
        tracing::info!(generation = %green.generation, pid = %green.pid, "rolled back, the generation finishes its connections");
        self.predecessors.add(green.generation, green.pid, green.hold());
        let (steered_back, patience) = (self.context.groups.run(Table::green_leaves), self.settings.release);
        tokio::spawn(async move {
            // A panic leaves the groups steered back: that was the operation before.
            let _ = steered_back.await;
            green.release(patience);
        });
    }
}
