//! The Unix sockets of a server: had from the previous generation or claimed, accepted from while this generation is live,
//! and left to the next generation or removed.

use std::sync::Arc;

use tokio::io::Interest;

use super::handover::Blue;
use super::passed::{Origin, Passed, UnixListener};
use crate::error::{Error, ErrorKind};
use crate::model::unix_address::UnixAddress;
use crate::runtime::accept::Acceptors;
use crate::runtime::connections::Connections;
use crate::runtime::offload::{self, FILES_MAX};
use crate::runtime::retire::Close;
use crate::sys::socket::{self, AsyncSocket};
use crate::sys::unix_listener::{self, Access, ClaimError};

/// Begins to accept from these listeners.
type Open = Box<dyn Fn(&mut Acceptors, &[Arc<AsyncSocket>]) + Send + Sync>;

/// The listeners of one generation.
pub(crate) struct UnixListeners {
    listeners: Passed,
    acceptors: Acceptors,
    open: Open,
    /// Whether this generation accepts from the listeners that it has inherited.
    accepts_inherited: bool,
}

/// Gets the listeners of these addresses that `cutover run` has given to this process.
///
/// # Errors
/// Names an address whose listener was not given.
pub(super) fn lent(asked: &[UnixAddress]) -> Result<Vec<UnixListener>, Error> {
    let mut given = if asked.is_empty() { Vec::new() } else { unix_listener::given() };
    let one = |address: &UnixAddress| {
        let at = given.iter().position(|(given, _)| given == address).ok_or_else(|| {
            let why = format!("under `cutover run`, {address} has to be given to `cutover run`: --listen {address}");
            Error::new(ErrorKind::Config, why)
        })?;
        let listener = socket::watch(given.swap_remove(at).1, Interest::READABLE);
        let listener = listener.map_err(|error| Error::io(ErrorKind::System, "cannot watch a listener", error))?;
        Ok(UnixListener { address: address.clone(), file: None, listener: Arc::new(listener), origin: Origin::Lent })
    };
    asked.iter().map(one).collect()
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
        let (origin, file, listener) = match passed.iter().position(|(passed, _)| passed.address == *address) {
            Some(at) => {
                let (passed, listener) = passed.remove(at);
                (Origin::Inherited, passed.file, listener)
            }
            None => {
                let (listener, file) = unix_listener::claim(address, access, backlog).map_err(refused)?;
                (Origin::Own, file, listener.into())
            }
        };
        let listener = socket::watch(listener, Interest::READABLE);
        let listener = listener.map_err(|error| Error::io(ErrorKind::System, "cannot watch a listener", error))?;
        listeners.push(UnixListener { address: address.clone(), file, listener: Arc::new(listener), origin });
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
    /// Begins to accept from the listeners that the previous generation did not have.
    pub(crate) fn new(listeners: Passed, connections: &Arc<Connections>, open: Open) -> UnixListeners {
        let mut all =
            UnixListeners { listeners, acceptors: Acceptors::new(connections), open, accepts_inherited: false };
        all.accept(|origin| origin != Origin::Inherited);
        all
    }

    /// Begins to accept from the inherited listeners, if that has not begun. A next generation does so when it is live:
    /// before, the connections that wait in the queues are the previous generation's.
    pub(crate) fn open(&mut self) {
        if !std::mem::replace(&mut self.accepts_inherited, true) {
            self.accept(|origin| origin == Origin::Inherited);
        }
    }

    fn accept(&mut self, is_meant: impl Fn(Origin) -> bool) {
        let all = self.listeners.own().iter().filter(|own| is_meant(own.origin));
        let all: Vec<_> = all.map(|own| own.listener.clone()).collect();
        (self.open)(&mut self.acceptors, &all);
    }

    /// Stops accepting. A listener that another generation has goes on listening there, with the connections in its
    /// queue. Of each other listener the file is removed, the connections in its queue are accepted, and it is closed.
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(crate) async fn close(mut self, why: Close) {
        let doors = self.acceptors.stop().await;
        for own in self.listeners.own() {
            let next_has_it = why == Close::ForSuccessor && self.listeners.is_given(&own.address);
            let other_has_it = match own.origin {
                Origin::Own => false,
                Origin::Inherited => !self.accepts_inherited,
                Origin::Lent => true,
            };
            if next_has_it || other_has_it {
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
