//! A listener that is in a group only so that the group can be steered by it: no connection ever comes to it.
//!
//! A program that is attached to one listener is that of its whole group, whoever has the others. Where the hash leads a
//! client to this one, as it does when no program is attached, the SYN is dropped, for it is not signed (see
//! [`super::tcp_md5`]), and comes again a second later (RFC 6298): that client waits, and is not refused.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

use super::socket::{BoundSocket, Sharing};
use super::{during, sock_diag, socket, tcp_md5};
use crate::model::identity::Inode;

/// Bound, and in no group yet.
#[derive(Debug)]
pub(crate) struct BoundPlaceholder {
    inode: Inode,
    bound: BoundSocket,
}

/// One that is in the group, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Placeholder {
    pub(crate) inode: Inode,
    listener: TcpListener,
}

impl BoundPlaceholder {
    /// One that can join the listeners of this address.
    ///
    /// # Errors
    /// `EADDRINUSE` if they are of another user and this process has not CAP_SETUID, or do not share the port; `ENOPROTOOPT`
    /// from a kernel without signatures; and that they are not all alike.
    pub(crate) fn new(address: SocketAddr) -> io::Result<BoundPlaceholder> {
        // In another group than theirs it would swallow what is theirs.
        let (stack, user) =
            sock_diag::kind(address)?.ok_or_else(|| io::Error::other("the listeners are not all alike"))?;
        let bound = as_user(user, || socket::bind(address, Sharing::Group, stack))?;
        // One that nobody has, so that no knock of ours passes either.
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
            signed.map_err(|error| during("let nothing in (TCP_MD5SIG_EXT)", error))?;
        }
        Ok(BoundPlaceholder { inode: socket::inode(&bound)?, bound })
    }

    /// Joins the group, behind all others. Until a program is attached, the hash leads to it too.
    ///
    /// # Errors
    /// What listen(2) says.
    pub(crate) fn join(self) -> io::Result<Placeholder> {
        Ok(Placeholder { inode: self.inode, listener: self.bound.listen(0)? })
    }
}

/// Has the sockets that are made meanwhile belong to this user (`sock_alloc` in net/socket.c, Linux 6.18), if that is allowed:
/// only then they may share a port with others of that one. It changes this thread only: setfsuid(2).
fn as_user<T>(user: u32, make: impl FnOnce() -> T) -> T {
    struct Back(u32);
    impl Drop for Back {
        fn drop(&mut self) {
            // SAFETY: takes an integer only. A thread may always go back to its effective uid.
            unsafe { libc::setfsuid(self.0) };
        }
    }
    // SAFETY: takes an integer only; it is taken back before anything else is done by this thread.
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
        // A process that was just forked has it too. If it cannot be shut down, it does not listen.
        let _ = socket::stop_listening(&self.listener);
    }
}

#[cfg(test)]
#[path = "placeholder_tests.rs"]
mod tests;
