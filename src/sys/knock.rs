//! Finds out which listener a connection would come to, without making one.
//!
//! A SYN with a TCP-MD5 signature (RFC 2385) that the listener has no key for is dropped by it, and counted as its drop:
//! there is no handshake, and its process sees nothing (`tcp_inbound_hash` in `tcp_v4_rcv`, net/ipv4/tcp_ipv4.c, Linux 6.18;
//! `sk_drops` as SK_MEMINFO_DROPS, sock_diag(7)). Setting a key needs no privilege (TCP_MD5SIG, CONFIG_TCP_MD5SIG).
#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::during;

/// A client that will never have a connection.
#[derive(Debug)]
pub(crate) struct Knocker {
    socket: Socket,
    to: SocketAddr,
    /// Its own address, by which it can be told from all others.
    pub(crate) source: SocketAddr,
}

/// `struct tcp_md5sig` (include/uapi/linux/tcp.h).
#[repr(C)]
struct Signature {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: libc::c_int,
    key: [u8; 80],
}

impl Knocker {
    /// # Errors
    /// What socket(2), bind(2) and setsockopt(2) say: `ENOPROTOOPT` from a kernel without signatures.
    pub(crate) fn new(to: SocketAddr) -> io::Result<Knocker> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP));
        let socket = socket.map_err(|error| during("make a socket", error))?;
        let mut source = to;
        source.set_port(0);
        socket.bind(&source.into()).map_err(|error| during(format_args!("bind {}", to.ip()), error))?;
        sign(&socket, to).map_err(|error| during("sign (TCP_MD5SIG)", error))?;
        let source = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Knocker { socket, to, source })
    }

    /// Sends the SYN. On the way over loopback it has arrived when this returns.
    ///
    /// # Errors
    /// Another one than that it is under way.
    pub(crate) fn knock(&self) -> io::Result<()> {
        match self.socket.connect(&self.to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(during("connect", error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// What it sends to this address is signed, with a key that nobody else has a use for.
fn sign(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    const KEY: &[u8; 7] = b"cutover";
    let mut key = [0; 80];
    key[..KEY.len()].copy_from_slice(KEY);
    let address = SockAddr::from(to);
    // SAFETY: what it points to has the size and the alignment of a `sockaddr_storage`, and is zero behind the address.
    let address = unsafe { address.as_ptr().cast::<libc::sockaddr_storage>().read() };
    let signature = Signature { address, flags: 0, prefix_length: 0, key_length: KEY.len() as u16, interface: 0, key };
    let length = libc::socklen_t::try_from(size_of::<Signature>()).map_err(io::Error::other)?;
    let (fd, option) = (socket.as_raw_fd(), libc::TCP_MD5SIG);
    // SAFETY: the descriptor is open; the value is a live structure of this length, which the kernel copies.
    let result = unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, option, (&raw const signature).cast(), length) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::TcpListener;

    use super::*;
    use crate::sys::{diag, socket};

    #[test]
    fn a_knock_is_counted_by_the_listener_and_seen_by_nobody() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("a free port");
            let address = listener.local_addr().expect("bound");
            listener.set_nonblocking(true).expect("set");
            let inode = socket::inode(&listener).expect("fstat");
            for count in 1..=3 {
                Knocker::new(address).expect("this kernel has signatures").knock().expect("on its way");
                assert_eq!(diag::drops(address).expect("sock_diag"), BTreeMap::from([(inode, count)]));
            }
            assert!(socket::accept_now(&listener).expect("listens").is_none());
            assert!(diag::knocks(address.port()).expect("sock_diag").is_empty());
        }
    }
}
