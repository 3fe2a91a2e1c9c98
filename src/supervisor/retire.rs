//! The end of a generation that another one follows: it is told to stop only when nothing is on its way to it any more.
//!
//! A program that is told to stop closes its listeners as it likes, and a close resets what waits in the accept queue, and
//! each handshake in flight. So, after new connections were steered away: wait for the handshakes that are in flight,
//! until the program has accepted all that waits, and until each of those has said what it wants; then tell it.

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
use crate::runtime::groups::{KeptListener, lock};
use crate::runtime::offload::{self, LOOK_MAX, Stalled};
use crate::runtime::retire::{LOOK, in_flight};
use crate::sys::sock_diag;

/// How often all processes are looked at for what they listen with, and have closed: no user waits for that.
const LOOK_AT_ALL: Duration = Duration::from_millis(10);

/// For so long after it was told to stop it is expected to close all that it listens with.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Returns when it has been told to stop.
pub(super) async fn retire(instance: &Arc<Instance>, child: Arc<Child>, at_once: watch::Receiver<bool>) {
    renew(instance).await;
    let linger = instance.settings.plan.linger;
    let deadline = Instant::now() + linger;
    let tier = lock(&instance.groups).tier();
    if !linger.is_zero() && child.has_ended().is_none() {
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

/// Tells it to stop. A process that is stopped (SIGSTOP, or a terminal that it may not read) would not hear it.
pub(super) fn tell(child: &Child, signal: Signal) {
    child.signal(signal);
    child.signal(Signal::CONT);
}

/// Sees which processes of the live generation have its listeners by now.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
async fn renew(instance: &Arc<Instance>) {
    let Some(live) = instance.live() else { return };
    let groups = instance.groups.clone();
    let look = move || {
        if let Some(holders) = live.child.holders() {
            lock(&groups).renew(&holders);
        }
    };
    // What is not known anew stays as it was known.
    let _ = offload::run_within(LOOK_MAX, look).await;
}

/// Waits until it has accepted what waits, and has heard a first word on each connection.
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
            // Those that come later come from nowhere: it is steered away. Where it is not, they are waited for no longer.
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
    tracing::warn!(%generation, %pid, "its processes cannot be looked at, told to stop without that: {stalled}");
}

/// Keeps its listeners open, when it is known where they stand.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
async fn keep(
    instance: &Arc<Instance>,
    child: &Arc<Child>,
    deadline: Instant,
    at_once: &watch::Receiver<bool>,
) -> Vec<KeptListener> {
    loop {
        let (groups, told, child) = (instance.groups.clone(), child.clone(), child.clone());
        let is_over = Instant::now() >= deadline || *at_once.borrow();
        let look = offload::run_within(LOOK_MAX, move || {
            let holders = child.holders().unwrap_or_default();
            let mut groups = lock(&groups);
            (groups.place(&holders) || is_over).then(|| groups.keep(&holders))
        });
        match look.await {
            Ok(Some(kept)) => return kept,
            Ok(None) => tokio::time::sleep(LOOK_AT_ALL).await,
            Err(stalled) => {
                cannot_look(&told, stalled);
                return vec![];
            }
        }
    }
}

/// Closes one, and waits until nobody has it any more: before that no other one may be closed.
async fn close_one(instance: &Arc<Instance>, kept: KeptListener) {
    let (groups, inode) = (instance.groups.clone(), kept.inode);
    let mut kept = Some(kept);
    loop {
        let (groups, last) = (groups.clone(), kept.take());
        let look = offload::run(move || {
            let mut groups = lock(&groups);
            if let Some(kept) = last {
                groups.before_kept_closes(&kept);
                drop(kept);
            }
            groups.has_closed(inode)
        });
        if !matches!(look.await, Ok(false)) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Sees to the close of all that it listens with: what was kept is closed one after the other, when the program has closed it
/// or is gone, and of the rest it is known by then that it may be closed at any moment.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
async fn close(instance: &Arc<Instance>, child: &Arc<Child>, mut kept: Vec<KeptListener>) {
    let told = Instant::now();
    loop {
        let (asked, groups) = (child.clone(), instance.groups.clone());
        let soon = told.elapsed() < AT_ONCE;
        let look = offload::run_within(LOOK_MAX, move || {
            lock(&groups).expect_closes(soon);
            let holders = asked.holders();
            let leaves = lock(&groups).are_leaving(holders.as_ref());
            (holders.unwrap_or_default(), leaves && !asked.members().is_empty())
        });
        let Ok((holders, leaves)) = look.await else {
            // It cannot be seen what the program has closed: what is kept is closed when the program has ended.
            child.end().await;
            for one in kept {
                close_one(instance, one).await;
            }
            break;
        };
        let (still, ours): (Vec<_>, Vec<_>) = kept.into_iter().partition(|k| holders.contains_key(&k.inode));
        for one in ours {
            close_one(instance, one).await;
        }
        kept = still;
        if kept.is_empty() && !leaves {
            break;
        }
        tokio::time::sleep(LOOK_AT_ALL).await;
    }
    rest(instance).await;
    child.clone().gone().await;
    rest(instance).await;
}

/// Leaves all to the kernel, where only the live generation listens.
async fn rest(instance: &Arc<Instance>) {
    let groups = instance.groups.clone();
    let rested = offload::run(move || {
        let mut groups = lock(&groups);
        if groups.have_left() {
            groups.rest();
        }
    });
    // A panic in it leaves the program attached, which is right for those that listen now.
    let _ = rested.await;
}
