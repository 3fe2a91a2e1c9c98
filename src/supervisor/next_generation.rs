//! The next generation, from its spawn to the moment at which it is live, or is given up.

use std::future::ready;
use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::child::{Child, SpawnedChild};
use super::instance::Instance;
use super::{notifications, readiness};
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::{Rollout, RolloutEvent};
use crate::runtime::host::Look;
use crate::runtime::input::Input;
use crate::runtime::offload;

/// The process of the next generation was spawned, or could not be spawned.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) green: Generation,
    pub(super) result: io::Result<Box<SpawnedChild>>,
}

/// The next generation of one rollout after the other.
pub(super) struct NextGeneration {
    instance: Arc<Instance>,
    /// The queue of the machine that spawns.
    inputs: mpsc::Sender<Input>,
    spawned: mpsc::Sender<Spawned>,
    green: Option<Arc<Child>>,
}

impl NextGeneration {
    pub(super) fn new(
        instance: Arc<Instance>,
        inputs: mpsc::Sender<Input>,
        spawned: mpsc::Sender<Spawned>,
    ) -> NextGeneration {
        NextGeneration { instance, inputs, spawned, green: None }
    }

    /// The next generation, if it is this one and has a process.
    pub(super) fn of(&self, generation: Generation) -> Option<&Arc<Child>> {
        self.green.as_ref().filter(|green| green.generation == generation)
    }

    /// The next generation, if it has a process.
    pub(super) fn green(&self) -> Option<&Arc<Child>> {
        self.green.as_ref()
    }

    /// Spawns the next generation on a thread, because exec may wait for a disk. The result comes as [`Spawned`].
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) fn spawn(&self, green: Generation) {
        let (instance, sender) = (self.instance.clone(), self.spawned.clone());
        let (lane, handle) = (instance.attempts.clone(), tokio::runtime::Handle::current());
        tokio::spawn(async move {
            let spawned = lane.run(move || {
                let _context = handle.enter();
                SpawnedChild::spawn(&instance.program, instance.unix.listeners(), &instance.reaper, green)
            });
            let result = spawned.await.unwrap_or_else(|stalled| Err(io::Error::other(stalled))).map(Box::new);
            // Without a driver no part of this process would manage the new process any more.
            if let Err(unsent) = sender.send(Spawned { green, result }).await
                && let Spawned { result: Ok(spawned), .. } = unsent.0
            {
                offload::detach(|| spawned.kill());
            }
        });
    }

    /// Takes charge of a new process, and begins to read its notifications and to look whether it is ready. A process
    /// whose rollout was given up long ago is killed.
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) fn take(&mut self, spawned: SpawnedChild, rollout: &Rollout) -> Pid {
        let green = notifications::listen(spawned, &Arc::downgrade(&self.instance), self.inputs.clone());
        let (generation, pid) = (green.generation, green.pid);
        tracing::info!(%generation, %pid, name = self.instance.name, "spawned");
        if !rollout.awaits(generation) {
            offload::detach(move || green.kill());
            return pid;
        }
        self.watch_end(&green);
        tokio::spawn(readiness::watch(self.instance.clone(), Arc::downgrade(&green), self.inputs.clone()));
        self.green = Some(green);
        pid
    }

    fn watch_end(&self, green: &Arc<Child>) {
        let (inputs, weak) = (self.inputs.clone(), Arc::downgrade(green));
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

    /// How the next generation is looked at.
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) fn look(&self, generation: Generation) -> Option<Look> {
        let child = self.of(generation)?.clone();
        let lane = child.lane.clone();
        Some(Look { told: Box::pin(ready(None)), holders: Box::new(move || child.holders()), lane })
    }

    /// Takes the next generation out, because it is sent away.
    pub(super) fn remove(&mut self, generation: Generation) -> Option<Arc<Child>> {
        self.green.take_if(|green| green.generation == generation)
    }

    /// Forgets the next generation, whose first process has ended, and kills what it has left behind.
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) fn forget(&mut self) {
        if let Some(green) = self.green.take() {
            offload::detach(move || green.kill());
        }
    }
}
