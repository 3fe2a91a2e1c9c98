//! What a look found about the listeners: from sock_diag, and from the descriptors of processes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::error::Unsteered;
use crate::model::identity::{Inode, Pid};

/// The sockets of a generation's processes, and the processes that hold each socket.
pub(crate) type Holders = BTreeMap<Inode, BTreeSet<Pid>>;

/// The listeners of each address, by inode, with the uid of their owner; or why sock_diag failed.
#[derive(Debug)]
pub(crate) struct Shown(pub(super) BTreeMap<SocketAddr, Result<BTreeMap<Inode, u32>, Unsteered>>);

impl Shown {
    pub(super) fn of(&self, address: SocketAddr) -> Result<&BTreeMap<Inode, u32>, Unsteered> {
        match self.0.get(&address) {
            Some(Ok(shown)) => Ok(shown),
            Some(Err(why)) => Err(why.clone()),
            None => Err(Unsteered::NotLookedUp(address)),
        }
    }

    /// Whether all listeners here are in `earlier` too.
    pub(super) fn adds_nothing_to(&self, earlier: &Shown) -> bool {
        self.0.iter().all(|(&address, shown)| match (shown, earlier.of(address)) {
            (Ok(now), Ok(before)) => now.keys().all(|inode| before.contains_key(inode)),
            (Ok(_), Err(_)) => false,
            (Err(_), _) => true,
        })
    }
}
