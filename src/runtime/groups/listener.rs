//! A listener of the live generation: ours, or of a process that is supervised.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::model::identity::{Inode, Pid};
use crate::sys::pidfd_getfd::{self, Place};
use crate::sys::socket;

/// One listener of the live generation.
#[derive(Debug, Clone)]
pub(crate) struct GroupListener {
    pub(crate) inode: Inode,
    handle: Handle,
}

#[derive(Debug, Clone)]
enum Handle {
    Ours(Arc<TcpListener>),
    /// Some of these processes have it. It is copied for a moment only: a copy that stays would keep it in the group when
    /// they are gone, and nobody would accept from it.
    Lent {
        holders: BTreeSet<Pid>,
        place: Cell<Option<Place>>,
    },
}

impl GroupListener {
    /// # Errors
    /// What fstat(2) says.
    pub(crate) fn new(listener: Arc<TcpListener>) -> io::Result<GroupListener> {
        Ok(GroupListener { inode: socket::inode(&listener)?, handle: Handle::Ours(listener) })
    }

    /// One that these processes have.
    pub(crate) fn lent(inode: Inode, holders: BTreeSet<Pid>) -> GroupListener {
        GroupListener { inode, handle: Handle::Lent { holders, place: Cell::new(None) } }
    }

    /// The listener, if it is ours.
    pub(crate) fn listener(&self) -> Option<&Arc<TcpListener>> {
        match &self.handle {
            Handle::Ours(listener) => Some(listener),
            Handle::Lent { .. } => None,
        }
    }

    /// Does something with the socket.
    ///
    /// # Errors
    /// Those of `act`; and if it is lent, that it cannot be copied (see [`pidfd_getfd::copy`]).
    pub(super) fn with<T>(&self, act: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        match &self.handle {
            Handle::Ours(listener) => act(listener.as_fd()),
            Handle::Lent { holders, place } => {
                if let Some(copy) = place.get().and_then(|place| pidfd_getfd::copy_again(place, self.inode)) {
                    return act(copy.as_fd());
                }
                let (copy, found) =
                    pidfd_getfd::copy(holders.iter().copied(), self.inode).map_err(|error| match error.kind() {
                        // It is no matter of this socket, or of this process: so it is said once, and not of each of them.
                        io::ErrorKind::PermissionDenied => {
                            tracing::debug!(%error, "refused");
                            io::Error::new(error.kind(), "its listeners may not be copied (pidfd_getfd)")
                        }
                        _ => error,
                    })?;
                place.set(Some(found));
                act(copy.as_fd())
            }
        }
    }
}
