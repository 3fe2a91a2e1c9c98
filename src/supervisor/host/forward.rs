//! The way forward: the next generation is started, and the listeners of both generations are followed.

use std::sync::Arc;
use std::time::Duration;

use super::listeners::follow;
use super::{HostEvent, SupervisedHost};
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::{Rollout, RolloutEvent};
use crate::runtime::input::Input;
use crate::runtime::offload;
use crate::supervisor::child::{Child, SpawnedChild};
use crate::supervisor::{notifications, readiness};

/// Interval between looks at the listeners, because there is no event for a listener that was closed or has come.
const LOOK: Duration = Duration::from_millis(20);

impl SupervisedHost {
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) fn spawn_green(&self, green: Generation) {
        let (instance, host_events) = (self.instance.clone(), self.host_events.clone());
        let (lane, handle) = (self.context.attempts.clone(), tokio::runtime::Handle::current());
        tokio::spawn(async move {
            let spawned = lane.run(move || {
                let _context = handle.enter();
                SpawnedChild::spawn(&instance.program, &instance.reaper, green)
            });
            let spawned = spawned.await.unwrap_or_else(|stalled| Err(std::io::Error::other(stalled)));
            let result = spawned.map(Box::new).map_err(|error| format!("cannot be spawned: {error}"));
            // Without a driver no part of this process would manage the new process any more.
            if let Err(unsent) = host_events.send(HostEvent::Spawned { green, result }).await
                && let HostEvent::Spawned { result: Ok(spawned), .. } = unsent.0
            {
                offload::detach(|| spawned.kill());
            }
        });
    }

    /// Takes charge of a new process, and begins to read its notifications and to look whether it is ready. A process
    /// whose rollout was given up long ago is killed.
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) fn adopt(&mut self, spawned: SpawnedChild, rollout: &Rollout) -> Pid {
        let inputs = &self.context.inputs;
        let green = notifications::listen(spawned, &Arc::downgrade(&self.instance), inputs.clone());
        let (generation, pid) = (green.generation, green.pid);
        tracing::info!(%generation, %pid, "spawned");
        if !rollout.brings(generation) {
            offload::detach(move || green.kill());
            return pid;
        }
        self.watch_end(&green);
        tokio::spawn(readiness::watch(self.instance.clone(), Arc::downgrade(&green), inputs.clone()));
        self.green = Some(green);
        self.begin_to_follow(generation);
        pid
    }

    fn watch_end(&self, green: &Arc<Child>) {
        let (inputs, weak) = (self.context.inputs.clone(), Arc::downgrade(green));
        let (generation, end) = (green.generation, green.end());
        let has_addresses = !self.instance.addresses().is_empty();
        tokio::spawn(async move {
            let Some(ended) = end.await else { return };
            let how = match weak.upgrade() {
                Some(child) => {
                    let left = readiness::left(&child).await;
                    readiness::told(ended, &child, &left, has_addresses)
                }
                None => ended.to_string(),
            };
            let _ = inputs.send(Input::Rollout(RolloutEvent::GreenExited { green: generation, how })).await;
        });
    }

    /// Repeats the look at the listeners for as long as a steering program that names slots is attached.
    fn begin_to_follow(&mut self, generation: Generation) {
        let (instance, blue, green) = (self.instance.clone(), self.child.clone(), self.green.clone());
        let task = tokio::spawn(async move {
            while follow(instance.clone(), generation, blue.clone(), green.clone()).await.is_ok() {
                tokio::time::sleep(LOOK).await;
            }
        });
        if let Some(before) = self.following.replace(task.abort_handle()) {
            before.abort();
        }
    }
}
