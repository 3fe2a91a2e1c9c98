//! Closes the listeners of this generation without losing connections and handshakes that are on their way to them.
//!
//! A close resets each connection in the accept queue, and each handshake whose last ACK is still to come. So, after
//! new connections were steered away: wait until no lookup by the old program is running (a grace period of RCU), take
//! the list of the handshakes in flight, accept until no handshake *of that list* is in flight any more, wait for one
//! more grace period, empty the accept queue, close.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::accept::{AcceptingListener, Acceptors};
use super::groups::Groups;
use super::offload;
use crate::model::steering::SteeringMode;
use crate::sys::sock_diag::{self, PendingHandshake};
use crate::sys::{membarrier, socket};

/// Interval between two looks at the handshakes in flight: the kernel offers no event for their end.
pub(crate) const LOOK: Duration = Duration::from_millis(2);
/// The longest time that a lookup by the old program may take, used where the kernel does not tell when it has ended
/// (see [`membarrier::settle`]).
const LOOKUP_MAX: Duration = Duration::from_millis(100);

/// Why the listeners are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    /// Another generation listens.
    ForSuccessor,
    /// No generation will listen.
    ForGood,
}

/// The end of the listeners of one generation.
pub(crate) struct Retirement {
    pub(crate) groups: Groups,
    pub(crate) acceptors: Acceptors,
    /// How long to wait for handshakes in flight. Zero: close at once, even if connections wait in the accept queue.
    pub(crate) linger: Duration,
    /// Becomes true when there is no more time.
    pub(crate) now: watch::Receiver<bool>,
}

impl Retirement {
    /// Closes all listeners. When this returns, the listeners are closed, and the connections of their accept queues
    /// have been accepted, unless `linger` is zero or there was no more time, which is logged.
    pub(crate) async fn close(mut self, why: Close) {
        let deadline = Instant::now() + self.linger;
        let tier = self.groups.tier();
        let waits = match (why, tier) {
            _ if self.linger.is_zero() => false,
            (Close::ForGood, _) | (_, SteeringMode::Migrating) => false,
            // Also where the kernel would migrate handshakes: it resets a handshake that ends in the very moment of the
            // close, because it has found the listener open and then finds it closed (`inet_csk_reqsk_queue_add` in
            // net/ipv4/inet_connection_sock.c, Linux 6.18).
            (Close::ForSuccessor, SteeringMode::Steered | SteeringMode::BestEffort) => true,
        };
        // Whether new handshakes still come to these listeners during the wait. Where the next generation does not
        // listen, no program can steer them away.
        let still_hit = waits && !self.groups.run(|table| table.ignore_syns()).await.unwrap_or_default();
        if waits {
            let left = in_flight(&self.groups, still_hit, deadline, &self.now).await;
            if left > 0 {
                tracing::warn!(handshakes = left, linger = ?self.linger, "handshakes in flight when the linger time was over, closing");
            }
        }
        let doors = self.acceptors.stop().await;
        let left_in_first_round = doors.len();
        for (closed, door) in doors.into_iter().enumerate() {
            let unsafe_close = self.close_one(door, deadline).await;
            // A close without a safe program leaves the choice to the kernel's hash for a moment, which may bring new
            // handshakes to the remaining listeners.
            if unsafe_close && waits && closed + 1 < left_in_first_round {
                in_flight(&self.groups, still_hit, deadline, &self.now).await;
            }
        }
    }

    /// Returns whether no program was right throughout the close, so that the kernel chose the listener for a moment.
    async fn close_one(&mut self, door: AcceptingListener, deadline: Instant) -> bool {
        let Ok(inode) = socket::inode(&door.listener) else { return false };
        let prepared = self.groups.run(move |table| {
            let right_throughout = table.before_close(inode);
            // The groups drop their reference, so that dropping `door` below is what closes the listener.
            table.let_go(inode);
            (right_throughout, table.are_steered_elsewhere())
        });
        let (right_throughout, is_steered_elsewhere) = prepared.await.unwrap_or_default();
        let shared = Arc::downgrade(&door.listener);
        if !self.linger.is_zero() {
            self.empty(&door, deadline).await;
        }
        // Nothing is awaited from the last accept(2) to the close, which resets a connection that comes in between.
        // A forked process has the listener too, until it calls exec(2) at least, and the slots move only when no
        // process has it. A supervisor keeps copies in order to choose the moment of the close itself, and waits for
        // all processes that have the listener.
        if !is_steered_elsewhere && let Err(error) = socket::stop_listening(&door.listener) {
            tracing::debug!(%error, "closed only by this process");
        }
        drop(door);
        debug_assert_eq!(shared.strong_count(), 0, "somebody else holds the listener");
        // A panic is logged, and leaves the steering as it was, which is right for this close.
        let _ = self.groups.run(move |table| table.after_close(inode)).await;
        !right_throughout
    }

    /// Empties the accept queue. If descriptors run out, continues as they become free, until the deadline.
    async fn empty(&self, door: &AcceptingListener, deadline: Instant) {
        while let Err(error) = self.acceptors.empty(door) {
            if Instant::now() >= deadline || *self.now.borrow() {
                tracing::warn!(%error, "the accept queue could not be emptied, closing");
                return;
            }
            // There is no event for a descriptor that has become free.
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Waits until no handshake that is in flight now is in flight any more. Returns how many are left at the deadline, or
/// when `at_once` becomes true.
///
/// `still_hit`: whether new handshakes still come to the listeners that are about to be closed.
pub(crate) async fn in_flight(
    groups: &Groups,
    still_hit: bool,
    deadline: Instant,
    at_once: &watch::Receiver<bool>,
) -> usize {
    settle().await;
    let mut waited_for = knocks(groups).await;
    while !waited_for.is_empty() && Instant::now() < deadline && !*at_once.borrow() {
        tokio::time::sleep(LOOK).await;
        let still = knocks(groups).await;
        waited_for = match still_hit {
            // New handshakes go to other listeners, so only the handshakes of the list count.
            false => waited_for.intersection(&still).copied().collect(),
            // New handshakes come here as well: wait for a moment with no handshake in flight.
            true => still,
        };
    }
    // A handshake that ends is neither shown as one nor in the accept queue for a moment (`inet_csk_complete_hashdance`
    // in net/ipv4/inet_connection_sock.c, Linux 6.18), which lasts as long as its processor is taken away. Its packet is
    // handled in one read-side section of RCU, so that the connection is in the queue afterwards.
    settle().await;
    waited_for.len()
}

/// Waits until the handling of every packet that was begun before has ended.
async fn settle() {
    let settled = offload::run(membarrier::settle).await;
    if !matches!(settled, Ok(Ok(()))) {
        tokio::time::sleep(LOOKUP_MAX).await;
    }
}

/// The handshakes in flight at all our ports; an empty set if sock_diag fails.
async fn knocks(groups: &Groups) -> BTreeSet<PendingHandshake> {
    let ports: BTreeSet<u16> = groups.addresses().iter().map(std::net::SocketAddr::port).collect();
    let dump = move || {
        ports
            .into_iter()
            .map(sock_diag::knocks)
            .collect::<std::io::Result<Vec<_>>>()
            .map(|found| found.into_iter().flatten().collect())
    };
    match offload::run(dump).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(%error, "handshakes in flight cannot be seen, closing without waiting for them");
            BTreeSet::new()
        }
        Err(_) => BTreeSet::new(),
    }
}
