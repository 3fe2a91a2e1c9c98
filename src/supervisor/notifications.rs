//! The sd_notify notifications of a program, which come to a socket of the supervisor and go to the rollout, and on to
//! the service manager.

use std::io;
use std::sync::{Arc, Weak};

use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;

use super::child::{Child, SpawnedChild};
use super::instance::Instance;
use super::settings::ReadyWhen;
use crate::model::identity::Pid;
use crate::model::rollout::{Failure, RolloutEvent};
use crate::model::sd_notify::{self, Notification};
use crate::runtime::input::Input;
use crate::runtime::notifier::NotifyState;
use crate::runtime::offload::LOOK_MAX;
use crate::sys::notify_socket;

/// Begins to read the notifications of a generation, and sends those that matter to a rollout to `inputs`. A fast
/// program may have sent all its notifications already; they wait in the socket, so that the event of the spawn can be
/// sent first.
pub(super) fn listen(spawned: SpawnedChild, instance: &Weak<Instance>, inputs: mpsc::Sender<Input>) -> Arc<Child> {
    let (child, notify) = spawned.into_parts();
    let child = Arc::new(child);
    let reading = read(notify, Arc::downgrade(&child), instance.clone(), inputs);
    child.is_read_by(tokio::spawn(reading).abort_handle());
    child
}

/// Reads notifications until the generation is dropped.
async fn read(socket: UnixDatagram, child: Weak<Child>, instance: Weak<Instance>, inputs: mpsc::Sender<Input>) {
    let mut strangers = false;
    loop {
        let received = socket.async_io(Interest::READABLE, || notify_socket::receive(&socket)).await;
        let (Ok(received), Some(child), Some(instance)) = (received, child.upgrade(), instance.upgrade()) else {
            return;
        };
        if !is_of(&child, received.sender).await {
            if !std::mem::replace(&mut strangers, true) {
                let sender = received.sender.map(Pid::number);
                tracing::warn!(
                    sender, generation = %child.generation,
                    "ignoring notifications that do not come from a process of this generation"
                );
            }
            continue;
        }
        match sd_notify::parse(&received.text) {
            Ok(notifications) => {
                for notification in notifications {
                    if let Some(event) = take(&child, &instance, notification) {
                        // Once the generation is live, no rollout waits for this event any more.
                        let _ = inputs.send(Input::Rollout(event)).await;
                    }
                }
            }
            Err(malformed) => {
                tracing::warn!(generation = %child.generation, reason = %malformed, "a malformed notification, ignoring");
            }
        }
    }
}

/// Whether the sender is a process of this generation. A sender that has ended meanwhile is recognised only if it was
/// the first process.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
async fn is_of(child: &Arc<Child>, sender: Option<Pid>) -> bool {
    let Some(sender) = sender else { return false };
    if sender == child.pid {
        return true;
    }
    let (lane, child) = (child.lane.clone(), child.clone());
    lane.run_within(LOOK_MAX, move || child.members().contains(&sender)).await.unwrap_or(false)
}

fn take(child: &Child, instance: &Instance, notification: Notification) -> Option<RolloutEvent> {
    let green = child.generation;
    match notification {
        Notification::Ready => (instance.settings.ready == ReadyWhen::Notify).then(|| {
            child.is_ready();
            RolloutEvent::GreenReady { green }
        }),
        Notification::Extend(by) => {
            instance.service_manager().extend(by);
            Some(RolloutEvent::GreenExtends { green, by })
        }
        Notification::Errno(errno) => {
            let error = io::Error::from_raw_os_error(errno);
            Some(RolloutEvent::GreenFailed { green, reason: Failure::Step(format!("could not start: {error}")) })
        }
        Notification::Status(text) => {
            tracing::info!(generation = %green, "{text:?}");
            child.has_said(text);
            None
        }
        Notification::Watchdog => {
            child.has_pinged();
            if instance.is_live(green) {
                instance.service_manager().pass_on(&NotifyState::Watchdog);
            }
            None
        }
        Notification::WatchdogTrigger => {
            if instance.is_live(green) {
                instance.service_manager().pass_on(&NotifyState::WatchdogTrigger);
            }
            None
        }
    }
}
