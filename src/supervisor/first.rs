//! The first generation: its start, the wait until it is ready, and its end if it never was.

use std::future::ready;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;

use super::child::{Child, KILL_MAX, SpawnedChild};
use super::instance::Instance;
use super::settings::ReadyWhen;
use super::{notifications, readiness, retire};
use crate::error::{Error, ErrorKind};
use crate::model::identity::Generation;
use crate::model::rollout::RolloutEvent;
use crate::runtime::input::{Input, QUEUE};
use crate::runtime::offload;
use crate::runtime::probe::Probe;
use crate::sys::reaper::Ended;

/// How the first generation began.
pub(super) enum First {
    Ready(Arc<Child>),
    /// The generation was told to stop, or has ended by itself. Contains the exit code.
    Over(u8),
}

/// Starts the first generation, and waits until it is ready.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
pub(super) async fn begin(instance: &Arc<Instance>, signals: &mut Signals) -> Result<First, Error> {
    let (inputs, mut received) = mpsc::channel(QUEUE);
    let mut spawning = std::pin::pin!(spawn(instance.clone()));
    let spawned = tokio::select! {
        spawned = spawning.as_mut() => spawned,
        code = stop_signal(signals) => {
            // A process that is spawned after the end of the supervisor would be left behind. A spawn that takes longer
            // hangs in the kernel, and is left to the service manager or container engine that ends this process.
            if let Ok(Ok(late)) = tokio::time::timeout(KILL_MAX, spawning).await {
                let _ = offload::run_within(KILL_MAX, move || late.kill()).await;
            }
            return Ok(First::Over(code));
        }
    };
    let spawned = spawned.map_err(|error| Error::io(ErrorKind::Program, "the program cannot be started", error))?;
    let child = notifications::listen(spawned, &Arc::downgrade(instance), inputs.clone());
    let (generation, pid) = (child.generation, child.pid);
    tracing::info!(%generation, %pid, name = instance.name, "spawned");
    instance.give_terminal(&child);
    let settings = &instance.settings;
    if settings.addresses.is_none() && settings.ready == ReadyWhen::Listening {
        // There is nothing to wait for, whatever the program is and wherever it will listen.
        child.is_ready();
        return Ok(First::Ready(child));
    }
    tokio::spawn(readiness::watch(instance.clone(), Arc::downgrade(&child), inputs));
    let mut deadline = Instant::now() + settings.plan.ready;
    let mut stopping = false;
    let mut probing: Option<Probing> = None;
    let end = child.end();
    tokio::pin!(end);
    loop {
        let is_probing = probing.is_some();
        tokio::select! {
            ended = &mut end => return ended_early(instance, &child, ended, stopping).await,
            Some(input) = received.recv() => match input {
                Input::Rollout(RolloutEvent::GreenReady { .. }) if !stopping => match probe(instance) {
                    Some(begun) => probing = Some(begun),
                    None => return Ok(First::Ready(child)),
                },
                Input::Rollout(RolloutEvent::GreenExtends { by, .. }) => deadline = deadline.max(Instant::now() + by),
                Input::Rollout(RolloutEvent::GreenFailed { reason, .. }) => return give_up(&child, reason).await,
                _ => {}
            },
            Some(signal) = signals.next() => match signal {
                SIGHUP => tracing::warn!(%generation, "reload refused: the first generation is not ready"),
                SIGTERM | SIGINT | SIGQUIT => {
                    let with = if signal == SIGTERM { settings.stop_signal } else { named(signal) };
                    if stopping {
                        kill(&child).await;
                    }
                    stopping = true;
                    probing = None;
                    deadline = Instant::now() + settings.plan.drain;
                    retire::tell(&child, with);
                }
                other => child.signal(named(other)),
            },
            probed = passed(&mut probing) => match probed {
                Ok(()) => return Ok(First::Ready(child)),
                Err(why) => return give_up(&child, why).await,
            },
            // The probe has a deadline of its own.
            () = tokio::time::sleep_until(deadline), if !is_probing => {
                if !stopping {
                    let elsewhere = readiness::elsewhere(instance, &child).await;
                    return give_up(&child, format!("did not become ready in {:?}{elsewhere}", settings.plan.ready)).await;
                }
                tracing::warn!(%generation, %pid, "the generation has not ended in its time, killing it");
                kill(&child).await;
                deadline += settings.plan.drain;
            }
        }
    }
}

/// Spawns the first generation on a thread, because exec may wait for a disk, and signals must be handled meanwhile.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
async fn spawn(instance: Arc<Instance>) -> io::Result<SpawnedChild> {
    let handle = tokio::runtime::Handle::current();
    let spawned = offload::run(move || {
        let _context = handle.enter();
        SpawnedChild::spawn(&instance.program, &instance.reaper, Generation::FIRST)
    });
    spawned.await.unwrap_or_else(|stalled| Err(io::Error::other(stalled)))
}

/// Waits for a signal that stops the supervisor, and returns the exit code for it. Other signals are dropped, because
/// there is no program yet that could receive them.
async fn stop_signal(signals: &mut Signals) -> u8 {
    while let Some(signal) = signals.next().await {
        if matches!(signal, SIGTERM | SIGINT | SIGQUIT) {
            return 128 + u8::try_from(signal).unwrap_or_default();
        }
    }
    std::future::pending().await
}

type Probing = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Probes the first generation on each address; `None` if no probe is configured.
fn probe(instance: &Instance) -> Option<Probing> {
    let (target, timeout) = (instance.settings.target.clone()?, instance.settings.plan.probe?);
    let probe = Probe { target, timeout, addresses: instance.addresses() };
    // No other generation listens, so nothing needs to be steered.
    Some(Box::pin(async move { probe.ask(|_, _| ready(Ok(()))).await }))
}

/// Waits for the result of the probe; never completes if there is no probe. Cancel safe.
async fn passed(probing: &mut Option<Probing>) -> Result<(), String> {
    match probing {
        Some(probing) => probing.await,
        None => std::future::pending().await,
    }
}

fn named(signal: i32) -> Signal {
    Signal::from_named_raw(signal).unwrap_or(Signal::TERM)
}

#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
pub(super) async fn kill(child: &Arc<Child>) {
    let child = child.clone();
    // A process that cannot be killed in that time hangs in the kernel, and is left to the service manager or container
    // engine that ends this process.
    let _ = offload::run_within(KILL_MAX, move || child.kill()).await;
}

async fn give_up(child: &Arc<Child>, why: String) -> Result<First, Error> {
    kill(child).await;
    Err(Error::new(ErrorKind::NotReady, format!("generation {} {why}; nothing runs", child.generation)))
}

/// Returns the exit code of a first generation that has ended, and logs that the generation was not ready.
async fn ended_early(
    instance: &Instance,
    child: &Arc<Child>,
    ended: Option<Ended>,
    stopping: bool,
) -> Result<First, Error> {
    let Some(ended) = ended else { return Ok(First::Over(0)) };
    let left = readiness::left(child).await;
    let how = readiness::told(ended, child, &left, !instance.addresses().is_empty());
    kill(child).await;
    match stopping {
        true => tracing::info!(generation = %child.generation, pid = %child.pid, how, "gone"),
        false => tracing::error!(generation = %child.generation, pid = %child.pid, "{how} before it was ready"),
    }
    match (ended.code(), !left.is_empty() && !stopping) {
        // An exit code of 0 is no success if the program has left processes that cannot be supervised.
        (0, true) => Err(Error::new(ErrorKind::NotReady, format!("generation {} {how}", child.generation))),
        (code, _) => Ok(First::Over(code)),
    }
}
