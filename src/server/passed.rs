//! The listeners on Unix sockets that blue passes to green: which ones, and whether green has them now.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::handover::PassedListener;
use crate::model::unix_address::UnixAddress;
use crate::sys::socket::AsyncSocket;
use crate::sys::unix_listener::{FileId, PASSED_MAX};

/// One listener on a Unix socket.
#[derive(Debug, Clone)]
pub(crate) struct UnixListener {
    pub(crate) address: UnixAddress,
    /// The file, if the address is a path.
    pub(crate) file: Option<FileId>,
    pub(crate) listener: Arc<AsyncSocket>,
    pub(crate) origin: Origin,
}

/// Where a generation has a listener from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The generation has made the listener itself.
    Own,
    /// The previous generation had the listener before.
    Inherited,
    /// `cutover run` has the listener, and gives it to each generation.
    Lent,
}

/// The listeners of this generation. Clones share what green has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Passed {
    own: Vec<UnixListener>,
    /// The addresses of which the latest green has the listener.
    given: Arc<Mutex<BTreeSet<UnixAddress>>>,
}

impl Passed {
    pub(crate) fn new(own: Vec<UnixListener>) -> Passed {
        Passed { own, given: Arc::default() }
    }

    pub(crate) fn own(&self) -> &[UnixListener] {
        &self.own
    }

    /// A new green has no listener yet.
    pub(crate) fn forget(&self) {
        self.given().clear();
    }

    /// The listeners of these addresses, which green has from now on.
    pub(crate) fn give(&self, addresses: &[UnixAddress]) -> (Vec<PassedListener>, Vec<Arc<AsyncSocket>>) {
        let wanted = self.own.iter().filter(|own| addresses.contains(&own.address)).take(PASSED_MAX);
        let mut given = self.given();
        wanted
            .map(|own| {
                given.insert(own.address.clone());
                (PassedListener { address: own.address.clone(), file: own.file }, own.listener.clone())
            })
            .unzip()
    }

    /// Whether green has the listener of this address.
    pub(crate) fn is_given(&self, address: &UnixAddress) -> bool {
        self.given().contains(address)
    }

    fn given(&self) -> MutexGuard<'_, BTreeSet<UnixAddress>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
