//! Other listeners to which connections for our addresses would come.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::error::{Error, ErrorKind};
use crate::model::identity::Inode;
use crate::sys::sock_diag::{self, Listening};
use crate::sys::socket_owner;

/// # Errors
/// If another listener takes connections for `address`: names its process.
pub(crate) fn refuse_others(address: SocketAddr, own: &BTreeSet<Inode>) -> Result<(), Error> {
    match others(address, own).first() {
        Some(other) => Err(taken(address, other)),
        None => Ok(()),
    }
}

/// The other listeners that take connections for `address`; empty if sock_diag fails.
pub(crate) fn others(address: SocketAddr, own: &BTreeSet<Inode>) -> Vec<Listening> {
    let mut others = sock_diag::listeners(address.port()).unwrap_or_default();
    others.retain(|other| other.takes(address) && !own.contains(&other.inode));
    others
}

pub(crate) fn taken(address: SocketAddr, other: &Listening) -> Error {
    let who = socket_owner::describe(other.inode, other.uid);
    let at = if other.address == address { String::new() } else { format!(" on {}", other.address) };
    Error::new(ErrorKind::AlreadyRunning, format!("{address} is taken: {who} listens there already{at}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::{self, Sharing, Stack};

    /// A server on 0.0.0.0 runs beside one that has only IPv6: nginx with `ipv6only=on`, for instance.
    #[test]
    fn a_listener_of_ipv6_alone_takes_no_connection_of_ipv4() {
        for (stack, taken) in [(Stack::Dual, 1), (Stack::Single, 0)] {
            let bound = socket::bind("[::]:0".parse().expect("an address"), Sharing::Group, stack).expect("bound");
            let port = bound.address.port();
            let _listener = bound.listen(1).expect("listens");
            for (address, found) in [("0.0.0.0", taken), ("127.0.0.1", taken), ("[::]", 1), ("[::1]", 1)] {
                let address = format!("{address}:{port}").parse().expect("an address");
                assert_eq!(others(address, &BTreeSet::new()).len(), found, "{address}, {stack:?}");
            }
        }
    }
}
