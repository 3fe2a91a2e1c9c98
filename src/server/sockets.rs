//! The listening sockets of one generation. They are bound early, so that errors are reported early.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::Interest;

use crate::error::{Error, ErrorKind};
use crate::model::addresses::{self, Bound, Offer};
use crate::model::handover::SpawnInfo;
use crate::runtime::groups::GroupListener;
use crate::runtime::port_conflicts::{others, refuse_others, taken};
use crate::runtime::role::Role;
use crate::sys::socket::{self, BoundSocket, Sharing, Stack};

/// The sockets of all addresses, bound and not listening.
pub(crate) struct Sockets {
    pub(crate) addresses: Vec<Bound>,
    bound: Vec<(SocketAddr, Sharing, Vec<BoundSocket>)>,
}

impl Sockets {
    /// Binds `count` sockets for each address: alone, or beside the sockets of the previous generation.
    ///
    /// # Errors
    /// Names the address, and the process that holds the address if there is one.
    pub(crate) fn bind(asked: &[(SocketAddr, Offer)], count: usize, role: &Role) -> Result<Sockets, Error> {
        let living = role.spawn_info().map(|spawn_info| spawn_info.addresses.clone()).unwrap_or_default();
        let mut addresses = addresses::inherit(asked, &living);
        let sharing = match role {
            Role::First | Role::Orphan { .. } => Sharing::Alone,
            // The previous generation may listen on the same addresses.
            Role::Supervised { .. } => Sharing::Group,
            Role::Green { spawn_info } => {
                check_replacement(&addresses, spawn_info)?;
                Sharing::Group
            }
        };
        let all: Vec<SocketAddr> = addresses.iter().map(|a| a.bound).collect();
        let mut bound = Vec::new();
        for address in &mut addresses {
            let stack = if addresses::is_dual_stack(address.bound, &all) { Stack::Dual } else { Stack::Single };
            let shared = matches!(role, Role::Supervised { .. }) || living.iter().any(|l| l.bound == address.bound);
            let own_sharing = if shared { sharing } else { Sharing::Alone };
            let first = bind(address.bound, own_sharing, stack)?;
            address.bound = first.address;
            let mut sockets = vec![first];
            for _ in 1..count {
                sockets.push(bind(address.bound, Sharing::Group, stack)?);
            }
            bound.push((address.bound, own_sharing, sockets));
        }
        Ok(Sockets { addresses, bound })
    }

    /// Makes the sockets listen.
    ///
    /// # Errors
    /// If another process has begun to listen on one of the addresses in the meantime.
    pub(crate) fn listen(self, backlog: u32) -> Result<Vec<(SocketAddr, Vec<GroupListener>)>, Error> {
        let mut listeners = Vec::new();
        let mut mine = BTreeSet::new();
        for (address, sharing, sockets) in self.bound {
            // SO_REUSEPORT is set by now, so the kernel would silently let another socket of the same uid join the
            // group.
            if sharing == Sharing::Alone {
                refuse_others(address, &mine)?;
            }
            let mut own = Vec::new();
            for socket in sockets {
                let listener = socket.listen(backlog).and_then(|l| socket::watch(l.into(), Interest::READABLE));
                own.push(
                    listener.and_then(|l| GroupListener::new(Arc::new(l))).map_err(|error| refused(address, error))?,
                );
            }
            mine.extend(own.iter().map(|o: &GroupListener| o.inode));
            if sharing == Sharing::Alone {
                refuse_others(address, &mine)?;
            }
            listeners.push((address, own));
        }
        Ok(listeners)
    }
}

fn check_replacement(next: &[Bound], spawn_info: &SpawnInfo) -> Result<(), Error> {
    addresses::check_replacement(next, &spawn_info.addresses).map_err(|why| {
        let (green, blue) = (spawn_info.generation, spawn_info.blue_generation);
        Error::new(ErrorKind::Replacement, format!("generation {green} cannot replace generation {blue}: {why}"))
    })
}

fn bind(address: SocketAddr, sharing: Sharing, stack: Stack) -> Result<BoundSocket, Error> {
    socket::bind(address, sharing, stack).map_err(|error| refused(address, error))
}

/// The error for an address that cannot be bound: the reason, and what to do.
fn refused(address: SocketAddr, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => match others(address, &BTreeSet::new()).first() {
            Some(other) => taken(address, other),
            None => Error::io(ErrorKind::Address, format!("{address} is in use"), error),
        },
        io::ErrorKind::PermissionDenied => Error::io(
            ErrorKind::Address,
            format!("no right to listen on {address}: a port below 1024 needs CAP_NET_BIND_SERVICE"),
            error,
        ),
        io::ErrorKind::AddrNotAvailable => {
            Error::io(ErrorKind::Address, format!("{} is no address of this machine", address.ip()), error)
        }
        _ => Error::io(ErrorKind::Address, format!("cannot listen on {address}"), error),
    }
}
