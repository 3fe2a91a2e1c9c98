//! Other listeners to which connections for our addresses would come.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::error::{Error, ErrorKind};
use crate::model::addresses;
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
    others.retain(|other| addresses::overlap(other.address, address) && !own.contains(&other.inode));
    others
}

pub(crate) fn taken(address: SocketAddr, other: &Listening) -> Error {
    let who = socket_owner::describe(other.inode, other.uid);
    let at = if other.address == address { String::new() } else { format!(" on {}", other.address) };
    Error::new(ErrorKind::AlreadyRunning, format!("{address} is taken: {who} listens there already{at}"))
}
