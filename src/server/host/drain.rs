//! The end of a generation: its listeners are closed, its connections finished, and nothing is left behind.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::{Host, HostEvent, Leadership};
use crate::model::handover::FromBlue;
use crate::model::identity::Generation;
use crate::model::rollout::{DrainScope, RolloutEvent};
use crate::runtime::connections::Stage;
use crate::runtime::control::Control;
use crate::runtime::offload::{self, FILES_MAX};
use crate::runtime::retire::{Close, Retirement};
use crate::server::passed::Origin;
use crate::sys::control_socket;
use crate::sys::terminal::Terminal;

/// How long a generation that has finished waits for a service manager that does not read its notifications.
const HEARD: Duration = Duration::from_secs(5);

impl Host {
    /// Closes the listeners while another generation listens.
    pub(super) fn close_for_successor(&mut self) {
        let stage = Stage::Retiring { since: Instant::now(), grace: self.settings.idle_grace };
        self.connections.enter_stage(stage);
        self.close_listeners(Close::ForSuccessor);
    }

    pub(super) fn stop(&mut self) {
        if self.leadership == Leadership::Held {
            self.service_manager.stopping();
        }
        if !self.settings.supervised {
            return self.stop_beside(false);
        }
        let (others_listen, host_events) =
            (self.context.groups.run(|table| table.others_listen()), self.host_events.clone());
        // `cutover run` and another generation have such a listener, unless all of them end.
        let is_lent = self.settings.supply.listeners.own().iter().any(|own| own.origin == Origin::Lent);
        tokio::spawn(async move {
            let others_listen = is_lent || others_listen.await.unwrap_or_default();
            // An error means that the driver is gone, and no longer needs the event.
            host_events.send(HostEvent::Stops { others_listen }).await
        });
    }

    /// Under `cutover run`, another generation may listen that this one does not know.
    pub(super) fn stop_beside(&mut self, others_listen: bool) {
        if others_listen {
            return self.close_for_successor();
        }
        self.connections.enter_stage(Stage::Stopping { grace: self.settings.idle_grace });
        self.close_listeners(Close::ForGood);
    }

    fn close_listeners(&mut self, why: Close) {
        let Some(acceptors) = self.acceptors.take() else { return self.context.send(RolloutEvent::ListenersClosed) };
        let (groups, linger) = (self.context.groups.clone(), self.settings.linger);
        let retirement =
            Retirement { groups: groups.clone(), acceptors, linger, now: self.context.close_now.subscribe() };
        let to_green = self.green.as_ref().map(|green| green.handover.clone());
        let unix = self.unix.take();
        self.context.in_background(async move {
            if let Some(unix) = unix {
                unix.close(why).await;
            }
            retirement.close(why).await;
            if let Some(to_green) = to_green {
                // Without an order, green finds it out by itself.
                let groups = groups.run(|table| table.order()).await.unwrap_or_default();
                to_green.send(&FromBlue::Closed { groups });
            }
            RolloutEvent::ListenersClosed
        });
    }

    pub(super) fn drain(&mut self, whose: DrainScope) {
        let connections = self.connections.clone();
        tracing::info!(generation = %self.context.generation, connections = connections.open(), "draining");
        let others = match whose {
            DrainScope::Own => None,
            DrainScope::All => Some(self.predecessors.gone()),
        };
        self.context.in_background(async move {
            connections.gone().await;
            if let Some(others) = others {
                others.await;
            }
            RolloutEvent::ConnectionsGone
        });
    }

    /// The end of this generation.
    pub(super) async fn end(&mut self) {
        // The next generation renames its own control socket over this generation's socket. Until then no other process
        // would answer.
        if let Some(passing_on) = self.passing_on.take() {
            let _ = passing_on.await;
            // The service ends with its main process, so the service manager should know by then that the main process
            // is another one.
            if tokio::time::timeout(HEARD, self.service_manager.manager().delivered()).await.is_err() {
                tracing::warn!(generation = %self.context.generation, "the service manager does not read which process is the next main process");
            }
        }
        if let Some(pid_file) = &self.pid_file {
            pid_file.remove(self.context.pid).await;
        }
        let control = self.control.as_ref().map(Control::path);
        if let Some(control) = self.control.take() {
            control.close().await;
        }
        self.tell_terminal(control).await;
        tracing::info!(generation = %self.context.generation, pid = %self.context.pid, connections = self.connections.open(), "gone");
    }

    /// Logs which process continues to serve when the shell that has started this process takes its terminal back.
    ///
    /// A shell waits for its own child, which is the first generation. The end of this child is the end of the job, and
    /// the process group of the job leaves the foreground: a later generation is in the same process group, but is not
    /// a child of the shell. If a script or sudo(8) has started the first generation, the job ends when the script or
    /// sudo(8) ends.
    async fn tell_terminal(&self, control: Option<PathBuf>) {
        let is_of_a_shell = self.leadership == Leadership::PassedOn && self.context.generation == Generation::FIRST;
        if !is_of_a_shell || Terminal::ours().is_none() {
            return;
        }
        // Another generation may have followed the next one while this one drained.
        let living = offload::run_within(FILES_MAX, move || control.and_then(|path| control_socket::living(&path)));
        let by_socket = living.await.ok().flatten().flatten().filter(|pid| pid.number() != 0);
        let green = self.green.as_ref();
        let next = || green.filter(|green| green.hold().is_some_and(|held| held.is_alive())).map(|green| green.pid);
        let Some(live) = by_socket.or_else(next) else { return };
        let who = match green.filter(|green| green.pid == live) {
            Some(green) => format!("generation {} (pid {live})", green.generation),
            None => format!("the live generation (pid {live})"),
        };
        let or_ask = by_socket.map(|_| format!(" or `cutover stop --name {}`", self.settings.name)).unwrap_or_default();
        tracing::warn!(
            "this process was the foreground job of a terminal: when its shell takes the terminal back, Ctrl-C does not reach \
             {who}; stop that one by `kill {live}`{or_ask}; `cutover run` keeps a server in the foreground"
        );
    }
}
