//! Who else listens where connections for us would come.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::error::{Error, ErrorKind};
use crate::model::addresses;
use crate::model::identity::Inode;
use crate::sys::sock_diag::{self, Listening};
use crate::sys::socket_owner;

/// # Errors
/// If anybody else listens there: names who.
pub(crate) fn refuse_others(address: SocketAddr, own: &BTreeSet<Inode>) -> Result<(), Error> {
    match others(address, own).first() {
        Some(other) => Err(taken(address, other)),
        None => Ok(()),
    }
}

/// Who else listens where connections for `address` come; nobody, if the kernel does not tell.
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
