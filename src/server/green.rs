//! The next generation from blue's point of view: spawned, listened to, held.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixDatagram, UnixListener};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::handover::{self, Supply, ToGreen};
use crate::model::handover::{FromBlue, SpawnInfo};
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::{Failure, RolloutEvent};
use crate::model::sd_notify::{self, Notification};
use crate::runtime::input::Input;
use crate::runtime::offload::Lane;
use crate::runtime::role::{NOTIFY, OWN, SPAWN_INFO};
use crate::sys::launch::Launch;
use crate::sys::notify_socket;
use crate::sys::process::{HeldProcess, Process};
use crate::sys::spawn;

/// What the next generation is started with.
pub(crate) struct Plan {
    pub(crate) launch: Arc<Launch>,
    pub(crate) spawn_info: SpawnInfo,
    pub(crate) inputs: mpsc::Sender<Input>,
}

/// A process that was just spawned, whose notifications are not read before [`SpawnedGreen::listen_to`].
#[derive(Debug)]
pub(crate) struct SpawnedGreen {
    pub(crate) pid: Pid,
    process: Process,
    ended: AsyncFd<OwnedFd>,
    notify: UnixDatagram,
    handover: UnixListener,
    source: Source,
}

/// A green process. Dropping this value leaves the process alone.
#[derive(Debug)]
pub(crate) struct Green {
    pub(crate) generation: Generation,
    pub(crate) pid: Pid,
    process: Arc<Process>,
    pub(crate) handover: ToGreen,
    notify: AbortHandle,
}

impl SpawnedGreen {
    /// Spawns the process, on a thread of `lane`.
    ///
    /// # Errors
    /// If a socket or the process cannot be created, or the program cannot be executed.
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(crate) async fn spawn(plan: Plan, lane: &Lane) -> io::Result<SpawnedGreen> {
        let green = plan.spawn_info.generation;
        let notify_name = notify_socket::unique_name("notify")?;
        let notify = notify_socket::bind(&notify_name)?;
        let handover = handover::bind(&plan.spawn_info.handover)?;
        let spawn_info = serde_json::to_string(&plan.spawn_info).map_err(io::Error::from)?;
        let added: [(&str, OsString); 2] =
            [(SPAWN_INFO, spawn_info.into()), (NOTIFY, format!("@{notify_name}").into())];
        let (launch, parent) = (plan.launch.clone(), plan.spawn_info.manager);
        // The look-up of the file and exec may wait for a disk.
        let spawned = lane.run(move || {
            let path = launch.executable().map_err(io::Error::other)?;
            spawn::spawn(&launch, &path, &OWN, &added, parent)
        });
        let process = spawned.await.map_err(|stalled| io::Error::other(format!("spawn: {stalled}")))??;
        let (pid, ended) = (process.pid, process.end()?);
        let source = Source { green, pid, inputs: plan.inputs };
        Ok(SpawnedGreen { pid, process, ended, notify: UnixDatagram::from_std(notify)?, handover, source })
    }

    /// Begins to turn the notifications and the end of the process into events. A fast process may have sent all its
    /// notifications already; they wait in the sockets, so that the event of the spawn can be sent first.
    pub(crate) fn listen_to(self, supply: Supply) -> Green {
        let (generation, pid) = (self.source.green, self.pid);
        let process = Arc::new(self.process);
        let source = self.source.clone();
        let failed = move |reason| {
            let source = source.clone();
            async move { source.fail(reason).await }
        };
        let notify = tokio::spawn(self.source.clone().read_notifications(self.notify)).abort_handle();
        tokio::spawn(self.source.wait_for_end(self.ended, process.clone()));
        Green { generation, pid, process, handover: ToGreen::start(self.handover, pid, supply, failed), notify }
    }
}

impl Green {
    /// The process. Its end is reported as an event.
    pub(crate) fn process(&self) -> Arc<Process> {
        self.process.clone()
    }

    /// Holds the process as that of a draining generation.
    pub(crate) fn hold(&self) -> Option<HeldProcess> {
        self.process.try_clone()
    }

    /// Sends the generation away: it closes its listeners without losing connections on their way, finishes the
    /// connections that it has, and ends. The process is killed if it still lives after `patience`.
    pub(crate) fn release(self, patience: Duration) {
        match self.handover.is_there() {
            true => self.handover.send(&FromBlue::TakenBack),
            // A program that does not speak the handover protocol understands SIGTERM.
            false => self.process.signal(Signal::TERM),
        }
        let process = self.process.clone();
        tokio::spawn(async move {
            if tokio::time::timeout(patience, process.gone()).await.is_err() {
                tracing::warn!(generation = %self.generation, pid = %self.pid, ?patience, "the generation was rolled back and has not ended in its time, killing it");
                process.kill();
            }
        });
    }
}

impl SpawnedGreen {
    /// Kills the process before any of its notifications was read.
    pub(crate) fn kill(self) {
        self.process.kill();
    }
}

impl Drop for Green {
    fn drop(&mut self) {
        self.notify.abort();
    }
}

#[derive(Debug, Clone)]
struct Source {
    green: Generation,
    pid: Pid,
    inputs: mpsc::Sender<Input>,
}

impl Source {
    async fn read_notifications(self, socket: UnixDatagram) {
        let mut strangers = false;
        loop {
            let Ok(received) = socket.async_io(Interest::READABLE, || notify_socket::receive(&socket)).await else {
                return;
            };
            if received.sender != Some(self.pid) {
                if !std::mem::replace(&mut strangers, true) {
                    let sender = received.sender.map(Pid::number);
                    tracing::warn!(
                        sender, green = %self.pid,
                        "ignoring notifications that do not come from the next generation's own process"
                    );
                }
                continue;
            }
            match sd_notify::parse(&received.text) {
                Ok(notifications) => {
                    for notification in notifications {
                        if !self.tell(notification).await {
                            return;
                        }
                    }
                }
                Err(malformed) => {
                    tracing::warn!(generation = %self.green, pid = %self.pid, reason = %malformed, "a malformed notification, ignoring");
                }
            }
        }
    }

    /// Passes a notification to the driver; `false` if the driver is gone.
    async fn tell(&self, notification: Notification) -> bool {
        let green = self.green;
        let event = match notification {
            Notification::Ready => RolloutEvent::GreenReady { green },
            Notification::Extend(by) => RolloutEvent::GreenExtends { green, by },
            Notification::Errno(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                RolloutEvent::GreenFailed { green, reason: Failure::Step(format!("could not start: {error}")) }
            }
            // A generation of this library sends these only when it is live, and then speaks to the service manager
            // itself.
            Notification::Watchdog | Notification::WatchdogTrigger => return true,
            Notification::Status(text) => {
                tracing::info!(generation = %green, "{text:?}");
                return true;
            }
        };
        self.inputs.send(Input::Rollout(event)).await.is_ok()
    }

    async fn fail(&self, reason: Failure) {
        // The driver is gone only when this process is about to end.
        let _ = self.inputs.send(Input::Rollout(RolloutEvent::GreenFailed { green: self.green, reason })).await;
    }

    async fn wait_for_end(self, pidfd: AsyncFd<OwnedFd>, process: Arc<Process>) {
        let how = loop {
            let Ok(mut ready) = pidfd.readable().await else { return };
            match process.reap() {
                Ok(Some(how)) => break how,
                Ok(None) => ready.clear_ready(),
                // The process is the service manager's child, or other code has reaped it (a waitpid(-1) in the
                // application).
                Err(_) => break process.told_end().await,
            }
        };
        let exited = RolloutEvent::GreenExited { green: self.green, how };
        // The driver is gone only when this process is about to end.
        let _ = self.inputs.send(Input::Rollout(exited)).await;
    }
}
