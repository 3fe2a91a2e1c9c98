//! The end: listeners are closed, connections finished, and nothing is left behind.

use tokio::time::Instant;

use super::{Host, Office};
use crate::model::message::FromBlue;
use crate::model::rollout::{Event, Whose};
use crate::runtime::connections::Stage;
use crate::runtime::driver::Host as _;
use crate::runtime::pid_file;
use crate::runtime::retire::{Close, Retirement, lock};

impl Host {
    pub(super) fn retire(&mut self) {
        let stage = Stage::Retiring { since: Instant::now(), grace: self.idle_grace };
        self.connections.enter_stage(stage);
        self.close_listeners(Close::ForSuccessor);
    }

    pub(super) fn stop_accepting(&mut self) {
        if self.office == Office::Held {
            self.voice.stopping();
        }
        if self.supervised && lock(&self.groups).others_listen() {
            return self.retire();
        }
        self.connections.enter_stage(Stage::Stopping { grace: self.idle_grace });
        self.close_listeners(Close::ForGood);
    }

    fn close_listeners(&mut self, why: Close) {
        let Some(acceptors) = self.acceptors.take() else { return self.send(Event::ListenersClosed) };
        let (groups, linger, now) = (self.groups.clone(), self.linger, self.close_now.subscribe());
        let retirement = Retirement { groups: groups.clone(), acceptors, linger, now };
        let to_green = self.green.as_ref().map(|green| green.handover.clone());
        self.in_background(async move {
            retirement.close(why).await;
            if let Some(to_green) = to_green {
                to_green.send(&FromBlue::Closed { groups: lock(&groups).order() });
            }
            Event::ListenersClosed
        });
    }

    pub(super) fn await_connections(&mut self, whose: Whose) {
        let connections = self.connections.clone();
        tracing::info!(generation = %self.generation, connections = connections.open(), "draining");
        let others = match whose {
            Whose::Own => None,
            Whose::All => Some(self.predecessors.gone()),
        };
        self.in_background(async move {
            connections.gone().await;
            if let Some(others) = others {
                others.await;
            }
            Event::ConnectionsGone
        });
    }

    pub(super) fn close_idle(&self) {
        self.connections.enter_stage(Stage::Stopping { grace: self.idle_grace });
    }

    pub(super) fn hammer(&self) {
        let left = self.connections.open();
        if left > 0 {
            tracing::warn!(generation = %self.generation, connections = left, "closing the connections that are left");
        }
        self.connections.enter_stage(Stage::Hammered);
    }

    /// The end of this generation.
    pub(super) async fn end(&mut self) {
        if let Some(path) = &self.pid_file {
            pid_file::remove(path, self.pid);
        }
        if let Some(control) = self.control.take() {
            // The next generation renames its own socket over this one: until then nobody else would answer.
            if let Some(passing_on) = self.passing_on.take() {
                let _ = passing_on.await;
            }
            control.close().await;
        }
        tracing::info!(generation = %self.generation, pid = %self.pid, connections = self.connections.open(), "gone");
    }
}
