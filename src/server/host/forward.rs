//! The way forward: green is started and looked at.

use std::collections::BTreeSet;

use super::{Host, HostEvent};
use crate::model::handover::{PROTOCOL, SpawnInfo};
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::{Failure, Rollout};
use crate::runtime::control::Control;
use crate::runtime::host::Look;
use crate::server::green::{Plan, SpawnedGreen};
use crate::sys::launch::ExecutableError;
use crate::sys::notify_socket::unique_name;
use crate::sys::socket_owner;

/// Why a rollout may not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum PreflightError {
    #[error(transparent)]
    Executable(#[from] ExecutableError),
    #[error("was refused by the application: {0}")]
    Application(String),
    #[error("was refused: the before_reload hook panicked")]
    Panicked,
}

impl Host {
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) fn ask_disk_and_application(&self) -> impl Future<Output = Result<(), PreflightError>> + Send + 'static {
        let (launch, hook) = (self.settings.launch.clone(), self.settings.before_reload.clone());
        let asked = self.context.attempts.run(move || {
            launch.executable()?;
            hook.map_or(Ok(()), |hook| hook().map_err(PreflightError::Application))
        });
        async move { asked.await.unwrap_or(Err(PreflightError::Panicked)) }
    }

    pub(super) fn spawn_green(&self, green: Generation) {
        let (launch, host_events) = (self.settings.launch.clone(), self.host_events.clone());
        let (inputs, lane) = (self.context.inputs.clone(), self.context.attempts.clone());
        let (blue, blue_generation, addresses) =
            (self.context.pid, self.context.generation, self.settings.addresses.clone());
        let parent = self.settings.parent;
        self.settings.supply.listeners.forget();
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
            let result =
                spawned.await.map(Box::new).map_err(|error| Failure::Step(format!("cannot be spawned: {error}")));
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
        let green = spawned.listen_to(self.settings.supply.clone());
        tracing::info!(generation = %green.generation, %pid, "spawned");
        match rollout.awaits(green.generation) {
            true => self.green = Some(green),
            false => green.process().kill(),
        }
        pid
    }

    /// A look at the sockets of green's process.
    pub(super) fn look_at(&self, generation: Generation) -> Option<Look> {
        let (pid, told) = self.with_green(generation, |green| (green.pid, green.handover.told()))?;
        let holders = move || {
            let sockets = socket_owner::sockets_of(pid).ok()?;
            Some(sockets.into_iter().map(|inode| (inode, BTreeSet::from([pid]))).collect())
        };
        // The look reads /proc/PID/fd, which does not wait for the other process.
        let told = async move { told.await.map(|listening| listening.groups) };
        Some(Look { told: Box::pin(told), holders: Box::new(holders), lane: self.context.attempts.clone() })
    }
}
