//! The end of a generation: no new connections come to it, it is told to stop, and its end is waited for.

use std::time::Duration;

use super::SupervisedHost;
use crate::model::rollout::{DrainScope, RolloutEvent};
use crate::runtime::offload::{self, LOOK_MAX};
use crate::supervisor::child::KILL_MAX;

/// Interval between counts of the open connections, a number that is only displayed.
const COUNT: Duration = Duration::from_millis(250);

impl SupervisedHost {
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) fn drain(&mut self, whose: DrainScope) {
        tracing::info!(generation = %self.generation(), "draining");
        let (child, ports) = (self.child.clone(), self.instance.ports());
        let gone = self.gone();
        tokio::spawn(async move {
            while !*gone.borrow() {
                let (child, ports) = (child.clone(), ports.clone());
                if offload::run(move || child.count_connections(&ports)).await.is_err() {
                    return;
                }
                tokio::time::sleep(COUNT).await;
            }
        });
        let others = match whose {
            DrainScope::Own => None,
            DrainScope::All => Some(self.instance.all_gone()),
        };
        let (child, signal) = (self.child.clone(), self.instance.stop_signal());
        self.context.in_background(async move {
            child.end().await;
            // The first process may be a shell that does not pass on the signal: its children are orphans now, and have
            // not received it.
            let left = child.clone();
            // Processes that cannot be signalled are left to the deadline.
            let _ = offload::run_within(LOOK_MAX, move || left.signal_left(signal)).await;
            child.gone().await;
            if let Some(others) = others {
                others.await;
            }
            RolloutEvent::ConnectionsGone
        });
    }

    /// Kills all processes of this generation that are left.
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) async fn end(&mut self) {
        let child = self.child.clone();
        let left = offload::run_within(KILL_MAX, move || {
            let left = child.members().len();
            child.kill();
            left
        });
        let left = left.await.unwrap_or_else(|stalled| {
            let (generation, pid) = (self.generation(), self.child.pid);
            tracing::warn!(%generation, %pid, "the processes of the generation cannot be examined, killing only the first one: {stalled}");
            self.child.kill_first();
            0
        });
        if left > 0 {
            tracing::warn!(generation = %self.generation(), processes = left, "killed the processes that the program has left behind");
        }
        // The exit code comes from the reaper, which reports a process killed here within a moment, unless the process
        // hangs in the kernel.
        if tokio::time::timeout(KILL_MAX, self.child.end()).await.is_err() {
            tracing::error!(generation = %self.generation(), pid = %self.child.pid, "the process was killed, and has not ended: it hangs in the kernel");
        }
        let how = self.child.has_ended().map(|ended| ended.to_string());
        tracing::info!(generation = %self.generation(), pid = %self.child.pid, how, "gone");
        self.gone.send_replace(true);
    }
}
