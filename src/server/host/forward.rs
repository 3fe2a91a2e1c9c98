//! The way forward: green is started, verified, probed, and given its share.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Host, HostEvent};
use crate::model::handover::{PROTOCOL, SpawnInfo};
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::{Revocability, Rollout, RolloutEvent};
use crate::model::share::Share;
use crate::runtime::control::Control;
use crate::runtime::driver::Host as _;
use crate::runtime::groups::{Groups, Shown, lock, with_a_look};
use crate::runtime::offload;
use crate::runtime::rollout_steps;
use crate::server::green::{Plan, SpawnedGreen};
use crate::sys::notify_socket::unique_name;
use crate::sys::socket_owner;

impl Host {
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) fn preflight(&mut self, green: Generation) {
        self.service_manager.reloading();
        tracing::info!(generation = %self.generation, green = %green, "reloading");
        let (launch, hook) = (self.launch.clone(), self.before_reload.clone());
        let asked = self.attempts.run(move || {
            launch.executable()?;
            hook.map_or(Ok(()), |hook| hook().map_err(|why| format!("was refused by the application: {why}")))
        });
        self.checking = Some(self.in_background(async move {
            let result = asked.await.unwrap_or_else(|_| Err("was refused: the before_reload hook panicked".into()));
            RolloutEvent::PreflightDone { green, result }
        }));
    }

    pub(super) fn gate(&self, green: Generation) {
        let (groups, to_blue) = (self.groups.clone(), self.to_blue.clone());
        let needs_steering = self.needs_steering;
        lock(&groups).begin(green);
        self.in_background(async move {
            if let Some(blue) = to_blue {
                blue.closed().await;
            }
            let result = rollout_steps::gate(groups, green, needs_steering, async { Ok(()) }).await;
            RolloutEvent::Gated { green, result }
        });
    }

    pub(super) fn spawn(&self, green: Generation) {
        let (launch, inputs, host_events) = (self.launch.clone(), self.inputs.clone(), self.host_events.clone());
        let (blue, blue_generation, addresses) = (self.pid, self.generation, self.addresses.clone());
        let lane = self.attempts.clone();
        let parent = self.parent;
        let control = self.control.as_ref().map(Control::path);
        tokio::spawn(async move {
            let spawned = async {
                let handover = unique_name("handover")?;
                let (protocol, generation) = (PROTOCOL, green);
                let spawn_info = SpawnInfo {
                    protocol,
                    generation,
                    blue,
                    manager: parent,
                    blue_generation,
                    handover,
                    addresses,
                    control,
                };
                SpawnedGreen::spawn(Plan { launch, spawn_info, inputs }, &lane).await
            };
            let result = spawned.await.map(Box::new).map_err(|error| format!("cannot be spawned: {error}"));
            // Without a driver no part of this process would manage the new process any more, and the new process would
            // take over one day.
            if let Err(unsent) = host_events.send(HostEvent::Spawned { green, result }).await
                && let HostEvent::Spawned { result: Ok(spawned), .. } = unsent.0
            {
                spawned.kill();
            }
        });
    }

    /// Takes charge of a new process, and begins to read its notifications. A process whose rollout was given up long
    /// ago is killed.
    pub(super) fn adopt(&mut self, spawned: SpawnedGreen, rollout: &Rollout) -> Pid {
        let pid = spawned.pid;
        let green = spawned.listen_to();
        tracing::info!(generation = %green.generation, %pid, "spawned");
        match rollout.brings(green.generation) {
            true => self.green = Some(green),
            false => green.kill(),
        }
        pid
    }

    pub(super) fn verify(&self, green: Generation) {
        let groups = self.groups.clone();
        let known = self.with_green(green, |process| (process.pid, process.handover.told()));
        self.in_background(async move {
            let result = match known {
                Some((pid, told)) => {
                    let told = told.await;
                    let sockets = move || {
                        let sockets = socket_owner::sockets_of(pid).ok()?;
                        Some(sockets.into_iter().map(|inode| (inode, BTreeSet::from([pid]))).collect())
                    };
                    let verify =
                        move |groups: &mut Groups, shown: &Shown, holders| groups.verify(green, shown, holders, &told);
                    let looked = offload::run(move || with_a_look(&groups, sockets, verify)).await;
                    looked.unwrap_or_else(|_| Err("cannot be looked at".into()))
                }
                None => Err("is gone".into()),
            };
            RolloutEvent::Verified { green, result }
        });
    }

    pub(super) fn probe(&mut self, green: Generation, after: Duration) {
        let Some(probe) = self.probe.clone() else { return self.send(RolloutEvent::Probed { green, result: Ok(()) }) };
        let groups = self.groups.clone();
        self.probing = Some(self.in_background(async move {
            // The model's pause between two probes, so that probes cause no load.
            tokio::time::sleep(after).await;
            RolloutEvent::Probed { green, result: probe.ask(&groups, green).await }
        }));
    }

    pub(super) fn end_probing(&mut self) {
        if let Some(probing) = self.probing.take() {
            probing.abort();
        }
    }

    pub(super) fn share(&self, green: Generation, share: Share) {
        let groups = self.groups.clone();
        self.in_background(async move {
            let result = rollout_steps::share(groups, green, share, async { Ok(()) }).await;
            RolloutEvent::Shared { green, result }
        });
    }

    pub(super) fn cut_over(&self, green: Generation, turn: Revocability) {
        let groups = self.groups.clone();
        self.in_background(async move {
            let result = rollout_steps::cut_over(groups, green, turn, async { Ok(()) }).await;
            RolloutEvent::CutOver { green, result }
        });
    }
}
