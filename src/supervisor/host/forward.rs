//! The way forward: the next generation is started, verified, and probed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{HostEvent, SupervisedHost};
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::{Revocability, Rollout, RolloutEvent};
use crate::model::share::Share;
use crate::runtime::driver::Host as _;
use crate::runtime::driver::Input;
use crate::runtime::groups::{Groups, Shown, lock, with_a_look};
use crate::runtime::offload::{self, LOOK_MAX, Stalled};
use crate::runtime::rollout_steps::{self, Probe};
use crate::supervisor::child::{Child, SpawnedChild};
use crate::supervisor::instance::Instance;
use crate::supervisor::{notifications, preflight, readiness};

/// Interval between looks at the listeners, because there is no event for a listener that was closed or has come.
const LOOK: Duration = Duration::from_millis(20);

/// Updates the groups with the current listeners of the live generation. Blocks.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
fn see(groups: &Mutex<Groups>, live: &Child) {
    let holders = live.holders();
    lock(groups).see(holders.as_ref());
}

/// Updates the groups with the listeners of either generation that have come or gone in the rollout of `generation`.
/// Blocks.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
fn follow(groups: &Mutex<Groups>, generation: Generation, blue: &Child, green: Option<&Child>) {
    if lock(groups).have_changed() {
        let holders = || (blue.holders(), green.and_then(Child::holders));
        with_a_look(groups, holders, |groups, shown, (blue, green)| groups.follow(generation, shown, blue, green));
    }
}

/// Does [`follow`] on a thread of the lane for looks.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
fn followed(
    instance: &Instance,
    generation: Generation,
    blue: &Arc<Child>,
    green: Option<&Arc<Child>>,
) -> impl Future<Output = Result<(), Stalled>> + Send + use<> {
    let (groups, blue, green) = (instance.groups.clone(), blue.clone(), green.cloned());
    instance.looks.run(move || follow(&groups, generation, &blue, green.as_deref()))
}

impl SupervisedHost {
    pub(super) fn preflight(&mut self, green: Generation) {
        self.instance.service_manager().reloading();
        tracing::info!(generation = %self.generation(), green = %green, "reloading");
        let (instance, child) = (self.instance.clone(), self.child.clone());
        self.checking = Some(self.in_background(async move {
            let result = preflight::pass(&instance, child).await;
            RolloutEvent::PreflightDone { green, result }
        }));
    }

    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) fn gate(&self, green: Generation) {
        let (instance, child) = (self.instance.clone(), self.child.clone());
        lock(&instance.groups).begin(green);
        self.in_background(async move {
            let (groups, needs) = (instance.groups.clone(), instance.settings.plan.needs_steering());
            let seen = groups.clone();
            let look = instance.looks.run_within(LOOK_MAX, move || see(&seen, &child));
            let result = rollout_steps::gate(groups, green, needs, look).await;
            RolloutEvent::Gated { green, result }
        });
    }

    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) fn spawn(&self, green: Generation) {
        let (instance, host_events) = (self.instance.clone(), self.host_events.clone());
        let handle = tokio::runtime::Handle::current();
        tokio::spawn(async move {
            let lane = instance.attempts.clone();
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
        let green = notifications::listen(spawned, &Arc::downgrade(&self.instance), self.inputs.clone());
        let (generation, pid) = (green.generation, green.pid);
        tracing::info!(%generation, %pid, "spawned");
        if !rollout.brings(generation) {
            offload::detach(move || green.kill());
            return pid;
        }
        self.watch_end(&green);
        tokio::spawn(readiness::watch(self.instance.clone(), Arc::downgrade(&green), self.inputs.clone()));
        self.green = Some(green);
        self.follow(generation);
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

    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) fn verify(&self, green: Generation) {
        let (groups, child) = (self.instance.groups.clone(), self.green(green));
        self.in_background(async move {
            let result = match child {
                Some(child) => {
                    let verify =
                        move |groups: &mut Groups, shown: &Shown, holders| groups.verify(green, shown, holders, &[]);
                    let lane = child.lane.clone();
                    let looked = lane.run(move || with_a_look(&groups, || child.holders(), verify)).await;
                    looked.unwrap_or_else(|_| Err("cannot be looked at".into()))
                }
                None => Err("is gone".into()),
            };
            RolloutEvent::Verified { green, result }
        });
    }

    pub(super) fn probe(&mut self, green: Generation, after: Duration) {
        let (Some(target), Some(timeout)) = (self.instance.settings.target.clone(), self.instance.settings.plan.probe)
        else {
            return self.send(RolloutEvent::Probed { green, result: Ok(()) });
        };
        let (probe, groups) =
            (Probe { target, timeout, addresses: self.instance.addresses() }, self.instance.groups.clone());
        self.probing = Some(self.in_background(async move {
            // The model's pause between two probes, so that probes cause no load.
            tokio::time::sleep(after).await;
            RolloutEvent::Probed { green, result: probe.ask(&groups, green).await }
        }));
    }

    /// Repeats the look at the listeners for as long as a steering program that names slots is attached.
    fn follow(&mut self, generation: Generation) {
        let (instance, blue, green) = (self.instance.clone(), self.child.clone(), self.green.clone());
        let task = tokio::spawn(async move {
            while followed(&instance, generation, &blue, green.as_ref()).await.is_ok() {
                tokio::time::sleep(LOOK).await;
            }
        });
        self.end_following();
        self.following = Some(task.abort_handle());
    }

    /// Steers after another look at the listeners: a listener that has come or gone since the last look would disturb
    /// the steering.
    pub(super) fn share(&self, green: Generation, share: Share) {
        let groups = self.instance.groups.clone();
        let look = followed(&self.instance, green, &self.child, self.green.as_ref());
        self.in_background(async move {
            let result = rollout_steps::share(groups, green, share, look).await;
            RolloutEvent::Shared { green, result }
        });
    }

    /// See [`SupervisedHost::share`].
    pub(super) fn cut_over(&self, green: Generation, turn: Revocability) {
        let groups = self.instance.groups.clone();
        let look = followed(&self.instance, green, &self.child, self.green.as_ref());
        self.in_background(async move {
            let result = rollout_steps::cut_over(groups, green, turn, look).await;
            RolloutEvent::CutOver { green, result }
        });
    }

    pub(super) fn end_following(&mut self) {
        if let Some(following) = self.following.take() {
            following.abort();
        }
    }

    /// Ends the preflight check, whose result is no longer waited for.
    pub(super) fn end_checking(&mut self) {
        if let Some(checking) = self.checking.take() {
            checking.abort();
        }
    }

    pub(super) fn end_probing(&mut self) {
        if let Some(probing) = self.probing.take() {
            probing.abort();
        }
    }

    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) fn kill(&self, green: Generation) {
        if let Some(child) = self.green(green) {
            offload::detach(move || child.kill());
        }
    }
}
