//! A listener that is in a group only so that the group can be steered by it: no connection ever reaches it.
//!
//! A program that is attached to one listener applies to its whole group, whichever processes have the other listeners.
//! If the hash leads a client to the placeholder, as it does when no program is attached, the SYN is dropped, because
//! it is not signed (see [`super::tcp_md5`]). The client sends the SYN again a second later (RFC 6298): the client
//! waits, and is not refused.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

use super::socket::{BoundSocket, Sharing};
use super::{during, sock_diag, socket, tcp_md5};
use crate::model::identity::Inode;

/// A placeholder that is bound, and is in no group yet.
#[derive(Debug)]
pub(crate) struct BoundPlaceholder {
    inode: Inode,
    bound: BoundSocket,
}

/// A placeholder that is in the group for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Placeholder {
    pub(crate) inode: Inode,
    listener: TcpListener,
}

impl BoundPlaceholder {
    /// Binds a placeholder that can join the group of the listeners of this address.
    ///
    /// # Errors
    /// `EADDRINUSE` if the listeners belong to another user and this process does not have CAP_SETUID, or if they do
    /// not share the port; `ENOPROTOOPT` from a kernel without signatures; and an error if the listeners are not all
    /// alike.
    pub(crate) fn new(address: SocketAddr) -> io::Result<BoundPlaceholder> {
        // In another group than the listeners' own, the placeholder would drop SYNs that are for the listeners.
        let (stack, user) =
            sock_diag::kind(address)?.ok_or_else(|| io::Error::other("the listeners are not all alike"))?;
        let bound = as_user(user, || socket::bind(address, Sharing::Group, stack))?;
        // A random key that no client has, so that the SYN of a slot probe is dropped too.
        let mut key = [0; 32];
        rustix::rand::getrandom(&mut key[..], rustix::rand::GetRandomFlags::empty())?;
        let families: &[IpAddr] = match address {
            SocketAddr::V4(_) => &[IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
            SocketAddr::V6(_) => {
                &[IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped())]
            }
        };
        for family in families {
            let signed = tcp_md5::with_all(&bound, *family, &key);
            signed.map_err(|error| during("refuse all connections (TCP_MD5SIG_EXT)", error))?;
        }
        Ok(BoundPlaceholder { inode: socket::inode(&bound)?, bound })
    }

    /// Joins the group as its last listener. Until a program is attached, the hash leads clients to the placeholder
    /// too.
    ///
    /// # Errors
    /// The error of listen(2).
    pub(crate) fn join(self) -> io::Result<Placeholder> {
        Ok(Placeholder { inode: self.inode, listener: self.bound.listen(0)? })
    }
}

/// Runs `make` so that the sockets that it makes belong to `user` (`sock_alloc` in net/socket.c, Linux 6.18), if that
/// is allowed: only then may they share a port with the other sockets of that user. Changes this thread only:
/// setfsuid(2).
fn as_user<T>(user: u32, make: impl FnOnce() -> T) -> T {
    struct Back(u32);
    impl Drop for Back {
        fn drop(&mut self) {
            // SAFETY: takes an integer only. A thread may always go back to its effective uid.
            unsafe { libc::setfsuid(self.0) };
        }
    }
    // SAFETY: takes an integer only; the uid is restored before this thread does anything else.
    let before = unsafe { libc::setfsuid(user) };
    let _back = Back(before.cast_unsigned());
    make()
}

impl AsFd for Placeholder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        // A process that was just forked has the listener too, so close(2) alone may not end it. If the shutdown fails,
        // the socket does not listen.
        let _ = socket::stop_listening(&self.listener);
    }
}

#[cfg(test)]
mod tests;
