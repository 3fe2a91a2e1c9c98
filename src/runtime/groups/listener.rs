//! A listener of the live generation: ours, or one of a supervised process.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use crate::model::identity::{Inode, Pid};
use crate::sys::pidfd_getfd::{self, Place};
use crate::sys::socket::{self, AsyncSocket};

/// One listener of the live generation.
#[derive(Debug, Clone)]
pub(crate) struct GroupListener {
    pub(crate) inode: Inode,
    handle: Handle,
}

#[derive(Debug, Clone)]
enum Handle {
    Ours(Arc<AsyncSocket>),
    /// A listener that some of these processes hold. It is copied for a moment only: a copy that stays would keep the
    /// listener in the group after the processes are gone, and no process would accept from it.
    Lent {
        holders: BTreeSet<Pid>,
        place: Cell<Option<Place>>,
    },
}

impl GroupListener {
    /// # Errors
    /// Errors of fstat(2).
    pub(crate) fn new(listener: Arc<AsyncSocket>) -> io::Result<GroupListener> {
        Ok(GroupListener { inode: socket::inode(&listener)?, handle: Handle::Ours(listener) })
    }

    /// A listener that these processes hold.
    pub(crate) fn lent(inode: Inode, holders: BTreeSet<Pid>) -> GroupListener {
        GroupListener { inode, handle: Handle::Lent { holders, place: Cell::new(None) } }
    }

    /// The listener, if it is ours.
    pub(crate) fn listener(&self) -> Option<&Arc<AsyncSocket>> {
        match &self.handle {
            Handle::Ours(listener) => Some(listener),
            Handle::Lent { .. } => None,
        }
    }

    /// Calls `act` with the socket. A listener of another process is copied for the time of the call.
    ///
    /// # Errors
    /// Errors of `act`; and if the listener is that of another process, that it cannot be copied (see
    /// [`pidfd_getfd::copy`]).
    pub(super) fn with<T>(&self, act: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        match &self.handle {
            Handle::Ours(listener) => act(listener.as_fd()),
            Handle::Lent { holders, place } => {
                if let Some(copy) = place.get().and_then(|place| pidfd_getfd::copy_again(place, self.inode)) {
                    return act(copy.as_fd());
                }
                let (copy, found) =
                    pidfd_getfd::copy(holders.iter().copied(), self.inode).map_err(|error| match error.kind() {
                        // The refusal concerns no single socket or process, so the error names neither, and is logged
                        // once.
                        io::ErrorKind::PermissionDenied => {
                            tracing::debug!(%error, "refused");
                            io::Error::new(error.kind(), "the program's listeners may not be copied (pidfd_getfd)")
                        }
                        _ => error,
                    })?;
                place.set(Some(found));
                act(copy.as_fd())
            }
        }
    }
}
