//! Detects when a generation is ready, and explains the end of a generation that never was.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::child::Child;
use super::instance::Instance;
use super::preflight::HOW;
use super::settings::ReadyWhen;
use crate::model::identity::Pid;
use crate::model::rollout::RolloutEvent;
use crate::runtime::input::Input;
use crate::runtime::offload::{self, LOOK_MAX, Stalled};
use crate::sys::reaper::Ended;
use crate::sys::sock_diag;

/// Interval between looks whether a generation listens: there is no event to wait for.
const LOOK: Duration = Duration::from_millis(10);
/// How long the number of sockets of a generation must stay the same if it is not known how many sockets it will have.
const STEADY: Duration = Duration::from_millis(300);

/// Waits until the generation is ready, and reports that to `inputs`.
pub(super) async fn watch(instance: Arc<Instance>, child: Weak<Child>, inputs: mpsc::Sender<Input>) {
    match &instance.settings.ready {
        // The generation reports its readiness itself.
        ReadyWhen::Notify => return,
        // Nothing is known yet that could be waited for, whatever the program is and wherever it will listen.
        ReadyWhen::Listening if instance.settings.addresses.is_none() && instance.live().is_none() => {}
        ReadyWhen::Listening | ReadyWhen::Http(_) => {
            if !listens(&instance, &child).await {
                return;
            }
        }
        ReadyWhen::Delay(time) => tokio::time::sleep(*time).await,
    }
    if let Some(child) = child.upgrade() {
        child.is_ready();
        // An error means that no rollout waits for this generation, because it was given up.
        let _ = inputs.send(Input::Rollout(RolloutEvent::GreenReady { green: child.generation })).await;
    }
}

/// Waits until the generation listens on each address, either with as many sockets as the live generation has there, or
/// with a number of sockets that no longer changes: programs of many processes open their sockets one by one. `false`
/// if the generation is gone before.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
async fn listens(instance: &Arc<Instance>, child: &Weak<Child>) -> bool {
    let (mut since, mut told) = ((Instant::now(), vec![]), false);
    loop {
        let Some(held) = child.upgrade() else { return false };
        if held.has_ended().is_some() {
            return false;
        }
        let (addresses, live, generation) = (instance.addresses(), instance.live(), held.generation);
        let look = move || {
            let groups: Vec<_> =
                addresses.into_iter().map(|address| sock_diag::group(address).unwrap_or_default()).collect();
            let count = |child: &Child| -> Vec<usize> {
                let holders = child.holders().unwrap_or_default();
                groups.iter().map(|group| group.keys().filter(|inode| holders.contains_key(inode)).count()).collect()
            };
            let own = count(&held);
            let wanted = live.filter(|_| !own.contains(&0)).map_or_else(Vec::new, |live| count(&live.child));
            (own, wanted)
        };
        let (own, wanted) = match instance.looks.run_within(LOOK_MAX, look).await {
            Ok(seen) => seen,
            Err(Stalled::Panicked) => return false,
            Err(Stalled::Late(limit)) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%generation, "the processes of the generation cannot be examined: /proc has not answered in {limit:?}");
                }
                continue;
            }
        };
        if own != since.1 {
            since = (Instant::now(), own.clone());
        }
        let enough = !wanted.is_empty() && own.iter().zip(&wanted).all(|(own, wanted)| own >= wanted);
        if !own.contains(&0) && (enough || since.0.elapsed() >= STEADY) {
            return true;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A text that names the addresses on which the generation does not listen, and where it listens instead; empty if it
/// listens on all of them.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
pub(super) async fn elsewhere(instance: &Arc<Instance>, child: &Arc<Child>) -> String {
    let child = child.clone();
    let listens = offload::run_within(LOOK_MAX, move || child.addresses()).await.unwrap_or_default();
    let list = |addresses: Vec<String>| addresses.join(" and ");
    let missing = instance.addresses().into_iter().filter(|address| !listens.contains(address));
    let missing = list(missing.map(|address| address.to_string()).collect());
    let but = list(listens.iter().map(ToString::to_string).collect());
    match (missing.is_empty(), but.is_empty()) {
        (true, _) => String::new(),
        (false, true) => format!(": it does not listen on {missing}"),
        (false, false) => format!(": it does not listen on {missing}, but on {but}"),
    }
}

/// The remaining processes of a generation whose first process has ended; empty if /proc does not answer.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
pub(super) async fn left(child: &Arc<Child>) -> BTreeSet<Pid> {
    let child = child.clone();
    offload::run_within(LOOK_MAX, move || child.members()).await.unwrap_or_default()
}

/// How a generation has ended, and what that means if it was not ready.
pub(super) fn told(ended: Ended, child: &Child, left: &BTreeSet<Pid>, has_addresses: bool) -> String {
    if ended.code() == 0 && !left.is_empty() {
        let left: Vec<String> = left.iter().map(ToString::to_string).collect();
        return format!(
            "{ended} and left {} behind: it has put itself into the background (it daemonises), where nobody can wait for \
             it; run it in the foreground (nginx: daemon off)",
            left.join(", ")
        );
    }
    match ended.code() {
        0 | 128.. => ended.to_string(),
        _ if has_addresses && !child.was_ready() => {
            format!("{ended} (if the program says that the address is in use, {HOW})")
        }
        _ => ended.to_string(),
    }
}
