//! The Unix sockets of a server: had from the previous generation or claimed, accepted from while this generation is live,
//! and left to the next generation or removed.

use std::sync::Arc;

use tokio::io::Interest;

use super::handover::Blue;
use super::passed::{Passed, UnixListener};
use crate::error::{Error, ErrorKind};
use crate::model::unix_address::UnixAddress;
use crate::runtime::accept::Acceptors;
use crate::runtime::connections::Connections;
use crate::runtime::offload::{self, FILES_MAX};
use crate::runtime::retire::Close;
use crate::sys::socket::{self, AsyncSocket};
use crate::sys::unix_listener::{self, Access, ClaimError};

/// Begins to accept from these listeners.
type Open = Box<dyn FnOnce(&mut Acceptors, &[Arc<AsyncSocket>]) + Send + Sync>;

/// The listeners of one generation.
pub(crate) struct UnixListeners {
    listeners: Passed,
    acceptors: Acceptors,
    /// `None` once this generation accepts, or has none of its own.
    open: Option<Open>,
}

/// Gets the listeners of these addresses: from blue, as far as blue has them, or anew.
///
/// # Errors
/// Names the address, and why nothing can listen there.
#[expect(clippy::disallowed_methods, reason = "before the server begins; the generation before waits, with a deadline")]
pub(super) async fn listen(
    asked: &[UnixAddress],
    access: &Access,
    backlog: u32,
    blue: Option<&mut Blue>,
) -> Result<Vec<UnixListener>, Error> {
    let mut passed = match blue {
        Some(blue) if !asked.is_empty() => blue.listeners(asked.to_vec()).await,
        Some(_) | None => Vec::new(),
    };
    let mut listeners = Vec::new();
    for address in asked {
        let (file, listener) = match passed.iter().position(|(passed, _)| passed.address == *address) {
            Some(at) => {
                let (passed, listener) = passed.remove(at);
                (passed.file, listener)
            }
            None => {
                let (listener, file) = unix_listener::claim(address, access, backlog).map_err(refused)?;
                (file, listener.into())
            }
        };
        let listener = socket::watch(listener, Interest::READABLE);
        let listener = listener.map_err(|error| Error::io(ErrorKind::System, "cannot watch a listener", error))?;
        listeners.push(UnixListener { address: address.clone(), file, listener: Arc::new(listener) });
    }
    Ok(listeners)
}

fn refused(error: ClaimError) -> Error {
    let kind = match &error {
        ClaimError::Taken { .. } => ErrorKind::AlreadyRunning,
        ClaimError::NoSocket(_) | ClaimError::Unknown { .. } | ClaimError::Failed { .. } => ErrorKind::Address,
    };
    Error::new(kind, error.to_string())
}

impl UnixListeners {
    pub(crate) fn new(listeners: Passed, connections: &Arc<Connections>, open: Open) -> UnixListeners {
        UnixListeners { listeners, acceptors: Acceptors::new(connections), open: Some(open) }
    }

    /// Begins to accept, if that has not begun. A next generation does so when it is live: before, the connections that
    /// wait in the queues are the previous generation's.
    pub(crate) fn open(&mut self) {
        if let Some(open) = self.open.take() {
            let all: Vec<_> = self.listeners.own().iter().map(|own| own.listener.clone()).collect();
            open(&mut self.acceptors, &all);
        }
    }

    /// Stops accepting. A listener that the next generation has goes on listening there, with the connections in its
    /// queue. Of each other listener the file is removed, the connections in its queue are accepted, and it is closed.
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(crate) async fn close(mut self, why: Close) {
        let has_accepted = self.open.is_none();
        let doors = self.acceptors.stop().await;
        for own in self.listeners.own() {
            let is_left = why == Close::ForGood || !self.listeners.is_given(&own.address);
            if !is_left || !has_accepted {
                continue;
            }
            // From here on no new client finds the listener.
            if let (Some(path), Some(file)) = (own.address.path(), own.file) {
                let path = path.to_owned();
                // A disk that does not answer leaves the file, which the next start replaces.
                let _ = offload::run_within(FILES_MAX, move || unix_listener::remove(&path, file)).await;
            }
            if let Some(door) = doors.iter().find(|door| Arc::ptr_eq(&door.listener, &own.listener))
                && let Err(error) = self.acceptors.empty(door)
            {
                tracing::warn!(%error, address = %own.address, "the accept queue could not be emptied, closing");
            }
        }
    }
}
