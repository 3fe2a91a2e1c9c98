//! The end of a generation: nothing new comes to it, it is told to stop, and waited for.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::SupervisedHost;
use crate::model::rollout::{Event, Whose};
use crate::runtime::driver::Host as _;
use crate::runtime::retire::lock;
use crate::supervisor::retire;

/// How often its connections are counted: a number for people.
const COUNT: Duration = Duration::from_millis(250);

impl SupervisedHost {
    /// Another generation listens.
    pub(super) fn retire(&mut self) {
        let (instance, child, at_once) = (self.instance.clone(), self.child.clone(), self.close_now.subscribe());
        self.in_background(async move {
            retire::retire(&instance, child, at_once).await;
            Event::ListenersClosed
        });
    }

    /// Nobody will listen.
    pub(super) fn stop_accepting(&mut self) {
        if self.instance.is_live(self.generation()) {
            self.instance.voice().stopping();
        }
        retire::tell(&self.child, self.instance.stop_signal());
        lock(&self.instance.groups).stand_down();
        self.send(Event::ListenersClosed);
    }

    pub(super) fn await_connections(&mut self, whose: Whose) {
        tracing::info!(generation = %self.generation(), "draining");
        let (child, open, ports) = (self.child.clone(), self.open.clone(), self.instance.ports());
        let gone = self.gone();
        tokio::spawn(async move {
            while !*gone.borrow() {
                let (child, ports) = (child.clone(), ports.clone());
                let Ok(count) = tokio::task::spawn_blocking(move || child.connections(&ports)).await else { return };
                open.store(count, Ordering::Relaxed);
                tokio::time::sleep(COUNT).await;
            }
        });
        let others = match whose {
            Whose::Own => None,
            Whose::All => Some(self.instance.all_gone()),
        };
        let (child, signal) = (self.child.clone(), self.instance.stop_signal());
        self.in_background(async move {
            child.end().await;
            // A shell, say, that does not pass on what it is told: its children are orphans now, and have heard nothing.
            let left = child.clone();
            let told = tokio::task::spawn_blocking(move || left.signal_left(signal));
            // A panic in it leaves them to the deadline.
            let _ = told.await;
            child.gone().await;
            if let Some(others) = others {
                others.await;
            }
            Event::ConnectionsGone
        });
    }

    pub(super) fn hammer(&self) {
        let child = self.child.clone();
        tokio::task::spawn_blocking(move || {
            if child.members().is_empty() {
                return;
            }
            tracing::warn!(generation = %child.generation, pid = %child.pid, "has not ended in its time, killing it");
            child.kill();
        });
    }

    /// Nothing of it is left behind.
    pub(super) async fn end(&mut self) {
        let child = self.child.clone();
        let left = tokio::task::spawn_blocking(move || {
            let left = child.members().len();
            child.kill();
            left
        });
        let left = left.await.unwrap_or_default();
        if left > 0 {
            tracing::warn!(generation = %self.generation(), processes = left, "killed what it has left behind");
        }
        // An exit code needs the reaper's word: what was killed here is told in a moment.
        self.child.end().await;
        let how = self.child.has_ended().map(|ended| ended.to_string());
        tracing::info!(generation = %self.generation(), pid = %self.child.pid, how, "gone");
        self.gone.send_replace(true);
    }
}
