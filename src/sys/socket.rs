//! Listening sockets, bound alone or beside another generation, and accepted sockets.
#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, ReadBuf};

use super::during;
use crate::model::identity::Inode;

/// Which other sockets may be bound to the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// No other socket: for the first listener of a first generation.
    Alone,
    /// Listeners of this generation or of the previous one.
    Group,
}

/// A socket that the runtime watches.
pub(crate) type AsyncSocket = AsyncFd<OwnedFd>;

/// Has the runtime watch a socket, which must not block.
///
/// # Errors
/// Errors of epoll_ctl(2).
pub(crate) fn watch(socket: OwnedFd, interest: Interest) -> io::Result<AsyncSocket> {
    // SAFETY: an `OwnedFd` is open until it is dropped, and nothing replaces its descriptor.
    let watched = unsafe { AsyncFd::register_with_interest(socket, interest) };
    watched.map_err(|error| during("watch a socket", io::Error::from(error)))
}

/// Whether `[::]` takes IPv4 too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stack {
    Dual,
    Single,
}

/// A socket that is bound and does not listen yet: no connection reaches it.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    socket: Socket,
    /// The bound address, with the real port if port 0 was asked for.
    pub(crate) address: SocketAddr,
}

/// Binds a TCP socket that will be part of a group.
///
/// [`Sharing::Alone`] binds without SO_REUSEPORT, so that the kernel refuses the bind while another socket listens
/// there, and sets the option afterwards. The option must be set at listen(2): this makes the group
/// (`inet_reuseport_add_sock` in net/ipv4/inet_hashtables.c, Linux 6.18), and lets the next generation in.
///
/// # Errors
/// `EADDRINUSE`, `EACCES` (a port below 1024), `EADDRNOTAVAIL`: see bind(2).
pub(crate) fn bind(address: SocketAddr, sharing: Sharing, stack: Stack) -> io::Result<BoundSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))
        .map_err(|e| during(format_args!("make a socket for {address}"), e))?;
    if address.is_ipv6() {
        socket.set_only_v6(stack == Stack::Single).map_err(|e| during("set IPV6_V6ONLY", e))?;
    }
    socket.set_reuse_address(true).map_err(|e| during("set SO_REUSEADDR", e))?;
    if sharing == Sharing::Group {
        socket.set_reuse_port(true).map_err(|e| during("set SO_REUSEPORT", e))?;
    }
    socket.bind(&address.into()).map_err(|e| during(format_args!("bind {address}"), e))?;
    socket.set_reuse_port(true).map_err(|e| during("set SO_REUSEPORT", e))?;
    let address = socket
        .local_addr()
        .map_err(|e| during("getsockname", e))?
        .as_socket()
        .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
    Ok(BoundSocket { socket, address })
}

impl AsFd for BoundSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl BoundSocket {
    /// Starts to listen, which appends the listener to its group.
    ///
    /// # Errors
    /// `EADDRINUSE` if a listener without SO_REUSEPORT or of another uid came first: see listen(2).
    pub(crate) fn listen(self, backlog: u32) -> io::Result<TcpListener> {
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        self.socket.listen(backlog).map_err(|e| during(format_args!("listen on {}", self.address), e))?;
        Ok(self.socket.into())
    }
}

/// The listener leaves its group, and is closed to clients, even if other processes have a descriptor of it:
/// shutdown(2) does to a listener what the last close(2) does (`inet_shutdown` in net/ipv4/af_inet.c, `tcp_disconnect`
/// in net/ipv4/tcp.c, Linux 6.18).
///
/// # Errors
/// `ENOTCONN` if the socket does not listen.
pub(crate) fn stop_listening(listener: impl AsFd) -> io::Result<()> {
    rustix::net::shutdown(listener, Shutdown::Both).map_err(|e| during("shut a listener down", e))
}

/// The inode of a socket, which identifies the socket in sock_diag and in /proc.
pub(crate) fn inode(socket: impl AsFd) -> io::Result<Inode> {
    Ok(Inode(rustix::fs::fstat(socket)?.st_ino))
}

/// Accepts one connection. Returns its socket, which does not block, and the address of the peer, if that is an IP
/// address.
///
/// # Errors
/// Errors of accept(2): `EAGAIN` when the queue of a listener that does not block is empty.
pub(crate) fn accept(listener: impl AsFd) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    let (socket, peer) = acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    Ok((socket, peer.and_then(|peer| peer.try_into().ok())))
}

/// Accepts one connection from a listener that does not block; `None` when its queue is empty.
///
/// A connection that was reset while it waited (`ECONNABORTED`) is skipped: its client knows already.
pub(crate) fn accept_now(listener: impl AsFd) -> io::Result<Option<(OwnedFd, Option<SocketAddr>)>> {
    loop {
        match accept(listener.as_fd()) {
            Ok(accepted) => return Ok(Some(accepted)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(None),
                Some(libc::EINTR | libc::ECONNABORTED) => {}
                _ => return Err(during("accept", error)),
            },
        }
    }
}

/// Reads the available bytes into the rest of `buffer`, by one recv(2). Returns their number; 0 at the end of the
/// stream.
pub(crate) fn read(stream: impl AsFd, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    // SAFETY: nothing is de-initialised: the slice is only passed to recv(2), which writes to it.
    let rest = unsafe { buffer.unfilled_mut() };
    let (filled, _) = rustix::net::recv(stream, rest, RecvFlags::empty())?;
    let count = filled.0.len();
    // SAFETY: recv(2) has just written this many bytes from the start of the rest on.
    unsafe { buffer.assume_init(count) };
    buffer.advance(count);
    Ok(count)
}

/// Writes by one send(2). Returns how many of the bytes the kernel has taken. An error of a connection that the peer has
/// closed causes no SIGPIPE.
pub(crate) fn write(stream: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)?)
}

/// Writes by one sendmsg(2), like [`write`](fn@write).
pub(crate) fn write_vectored(stream: impl AsFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(rustix::net::sendmsg(stream, slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?)
}

/// The number of bytes from the peer that wait to be read.
pub(crate) fn unread(stream: impl AsFd) -> u64 {
    // FIONREAD does not fail on a connected socket (tcp(7), SIOCINQ).
    rustix::io::ioctl_fionread(stream).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn alone_means_alone_and_still_lets_the_next_generation_in() {
        let first = bind(loopback(), Sharing::Alone, Stack::Single).expect("a free port");
        let address = first.address;
        let _first = first.listen(16).expect("listens");
        let second = bind(address, Sharing::Alone, Stack::Single).expect_err("somebody listens there");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        let green = bind(address, Sharing::Group, Stack::Single).expect("a group");
        green.listen(16).expect("joins");
    }

    #[test]
    fn a_chosen_port_is_nobody_elses() {
        let a = bind(loopback(), Sharing::Alone, Stack::Single).expect("a free port");
        let b = bind(loopback(), Sharing::Alone, Stack::Single).expect("another free port");
        assert_ne!(a.address.port(), b.address.port());
    }

    #[test]
    fn it_listens_no_more_whoever_has_it_too() {
        let listener = bind(loopback(), Sharing::Alone, Stack::Single).expect("bind").listen(16).expect("listen");
        let (address, theirs) = (listener.local_addr().expect("bound"), listener.try_clone().expect("copied"));
        drop(listener);
        assert_eq!(crate::sys::sock_diag::group(address).expect("sock_diag").len(), 1, "a close alone closes nothing");
        stop_listening(&theirs).expect("listened");
        assert!(crate::sys::sock_diag::group(address).expect("sock_diag").is_empty());
        assert_eq!(stop_listening(&theirs).expect_err("it does not listen").kind(), io::ErrorKind::NotConnected);
    }

    #[test]
    fn an_empty_queue_is_no_error() {
        let listener = bind(loopback(), Sharing::Alone, Stack::Single).expect("bind").listen(16).expect("listen");
        assert!(accept_now(&listener).expect("nothing there").is_none());
        let _client = TcpStream::connect(listener.local_addr().expect("bound")).expect("the queue takes it");
        assert!(accept_now(&listener).expect("one there").is_some());
    }
}
