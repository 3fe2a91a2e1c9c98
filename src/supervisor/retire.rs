//! The end of a generation that another one follows: the generation is told to stop only when no connection is on its
//! way to it any more.
//!
//! A program that is told to stop closes its listeners at any time and in any order. A close resets the connections in
//! the accept queue, and each handshake in flight. So, after new connections were steered away, the supervisor waits
//! for the handshakes in flight, until the program has accepted all waiting connections, and until the client has sent
//! a first byte on each of these connections. Only then is the program told to stop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::Instant;

use super::child::Child;
use super::instance::Instance;
use crate::model::identity::Inode;
use crate::model::steering::SteeringMode;
use crate::runtime::groups::KeptListener;
use crate::runtime::offload::{self, LOOK_MAX, Stalled};
use crate::runtime::retire::{LOOK, in_flight};
use crate::sys::sock_diag;

/// Interval between looks at all processes for the listeners that they hold and have closed. No user waits for these
/// looks.
const LOOK_AT_ALL: Duration = Duration::from_millis(10);

/// How long after the stop signal the program is expected to close all its listeners.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Returns when the generation has been told to stop.
pub(super) async fn retire(instance: &Arc<Instance>, child: Arc<Child>, at_once: watch::Receiver<bool>) {
    renew(instance).await;
    let linger = instance.settings.plan.linger;
    let deadline = Instant::now() + linger;
    let tier = instance.groups.tier();
    if !linger.is_zero() && child.has_ended().is_none() {
        finish_deferred(instance, &child).await;
        if tier != SteeringMode::Migrating {
            let left = in_flight(&instance.groups, tier == SteeringMode::BestEffort, deadline, &at_once).await;
            if left > 0 {
                tracing::warn!(handshakes = left, ?linger, "handshakes in flight when the linger time was over");
            }
        }
        taken_in(instance, &child, deadline, &at_once).await;
    }
    let kept = keep(instance, &child, deadline, &at_once).await;
    tell(&child, instance.stop_signal());
    let instance = instance.clone();
    tokio::spawn(async move { close(&instance, &child, kept).await });
}

/// Tells the generation to stop. SIGCONT follows, because a stopped process (SIGSTOP, or a terminal that the process
/// may not read) would not react to the signal.
pub(super) fn tell(child: &Child, signal: Signal) {
    child.signal(signal);
    child.signal(Signal::CONT);
}

/// Has the handshakes end for whose first byte the listeners wait (TCP_DEFER_ACCEPT, tcp(7)): for their clients the
/// connections are there, and a close of the listener would reset them.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
async fn finish_deferred(instance: &Arc<Instance>, child: &Arc<Child>) {
    let looked = child.clone();
    // If the look fails, such handshakes are waited for like all others.
    if let Ok(Some(holders)) = offload::run_within(LOOK_MAX, move || looked.holders()).await {
        let _ = instance.groups.run(move |table| table.finish_deferred(&holders)).await;
    }
}

/// Updates which processes of the live generation hold its listeners.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
async fn renew(instance: &Arc<Instance>) {
    let Some(live) = instance.live() else { return };
    // If the look fails, the previous state remains.
    if let Ok(Some(holders)) = offload::run_within(LOOK_MAX, move || live.child.holders()).await {
        let _ = instance.groups.run(move |table| table.renew(&holders)).await;
    }
}

/// Waits until the generation has accepted all waiting connections, and a first byte has come on each connection.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
async fn taken_in(instance: &Arc<Instance>, child: &Arc<Child>, deadline: Instant, at_once: &watch::Receiver<bool>) {
    let mut silent: Option<BTreeSet<Inode>> = None;
    while Instant::now() < deadline && !*at_once.borrow() && child.has_ended().is_none() {
        let (told, child, ports) = (child.clone(), child.clone(), instance.ports());
        let look = offload::run_within(LOOK_MAX, move || {
            let holders = child.holders().unwrap_or_default();
            let mine = |inode: &Inode| holders.contains_key(inode);
            let queues = ports.iter().filter_map(|&port| sock_diag::queues(port).ok()).flatten();
            let waits = queues.filter(|(inode, _)| mine(inode)).any(|(_, waiting)| waiting > 0);
            let unheard = ports.iter().filter_map(|&port| sock_diag::unheard(port).ok()).flatten();
            (waits, unheard.filter(mine).collect::<BTreeSet<_>>())
        });
        let (waits, now) = match look.await {
            Ok(seen) => seen,
            Err(stalled) => return cannot_look(&told, stalled),
        };
        if !waits {
            // If new connections are steered away, none come later. If they are not, later connections are not waited
            // for.
            let still: BTreeSet<Inode> = match &silent {
                Some(before) => before.intersection(&now).copied().collect(),
                None => now,
            };
            if still.is_empty() {
                return;
            }
            silent = Some(still);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn cannot_look(child: &Child, stalled: Stalled) {
    let (generation, pid) = (child.generation, child.pid);
    tracing::warn!(%generation, %pid, "the processes of the generation cannot be examined, telling it to stop all the same: {stalled}");
}

/// Keeps the generation's listeners open, once their slots are known.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
async fn keep(
    instance: &Arc<Instance>,
    child: &Arc<Child>,
    deadline: Instant,
    at_once: &watch::Receiver<bool>,
) -> Vec<KeptListener> {
    loop {
        let looked = child.clone();
        let is_over = Instant::now() >= deadline || *at_once.borrow();
        let holders = match offload::run_within(LOOK_MAX, move || looked.holders().unwrap_or_default()).await {
            Ok(holders) => holders,
            Err(stalled) => {
                cannot_look(child, stalled);
                return vec![];
            }
        };
        // Not limited: only the kernel is asked, and listeners that a late call has kept would be closed with its result.
        let placed = instance.groups.run(move |table| (table.place(&holders) || is_over).then(|| table.keep(&holders)));
        match placed.await {
            Ok(Some(kept)) => return kept,
            Ok(None) => tokio::time::sleep(LOOK_AT_ALL).await,
            Err(stalled) => {
                let (generation, pid) = (child.generation, child.pid);
                tracing::error!(%generation, %pid, "the listeners of the generation cannot be kept open, telling it to stop all the same: {stalled}");
                return vec![];
            }
        }
    }
}

/// Closes one kept listener, and waits until no process has it any more: before that, no other listener may be closed.
async fn close_one(instance: &Arc<Instance>, kept: KeptListener) {
    let inode = kept.inode;
    let mut kept = Some(kept);
    loop {
        let last = kept.take();
        let look = instance.groups.run(move |table| {
            if let Some(kept) = last {
                table.before_kept_closes(&kept);
                drop(kept);
            }
            table.has_closed(inode)
        });
        if !matches!(look.await, Ok(false)) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Manages the close of all listeners of the generation. Each kept listener is closed, one after the other, after the
/// program has closed it or is gone. For the other listeners, the groups by then expect a close at any moment.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
async fn close(instance: &Arc<Instance>, child: &Arc<Child>, mut kept: Vec<KeptListener>) {
    let told = Instant::now();
    loop {
        let looked = child.clone();
        let soon = told.elapsed() < AT_ONCE;
        // A panic leaves the steering program as it was, which is right for any number of closes.
        let _ = instance.groups.run(move |table| table.expect_closes(soon)).await;
        let look = offload::run_within(LOOK_MAX, move || (looked.holders(), !looked.members().is_empty()));
        let Ok((holders, lives)) = look.await else {
            // The look does not show what the program has closed, so the kept listeners are closed when the program has
            // ended.
            child.end().await;
            for one in kept {
                close_one(instance, one).await;
            }
            break;
        };
        let asked = holders.clone();
        let leaves = instance.groups.run(move |table| table.are_leaving(asked.as_ref())).await.unwrap_or_default();
        let is_held = |inode: &Inode| holders.as_ref().is_some_and(|holders| holders.contains_key(inode));
        let (still, ours): (Vec<_>, Vec<_>) = kept.into_iter().partition(|kept| is_held(&kept.inode));
        for one in ours {
            close_one(instance, one).await;
        }
        kept = still;
        if kept.is_empty() && !(leaves && lives) {
            break;
        }
        tokio::time::sleep(LOOK_AT_ALL).await;
    }
    rest(instance).await;
    child.clone().gone().await;
    rest(instance).await;
}

/// Leaves the groups to the kernel where only the live generation listens.
async fn rest(instance: &Arc<Instance>) {
    let rested = instance.groups.run(|table| {
        if table.have_left() {
            table.rest();
        }
    });
    // A panic leaves the steering program attached, which is right for the generation that listens now.
    let _ = rested.await;
}
