//! Finds out which listener a connection would come to, without making a connection.
//!
//! A listener that does not have the key of a signed SYN drops the SYN, and the kernel counts it as a drop of that
//! listener (see [`super::tcp_md5`]): no handshake begins, and the listener's process sees nothing.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

use super::{during, tcp_md5};

/// A client that never gets a connection.
#[derive(Debug)]
pub(crate) struct SlotProbe {
    socket: Socket,
    to: SocketAddr,
    /// The address of the probe, which distinguishes the probe from all other clients.
    pub(crate) source: SocketAddr,
}

/// No other program uses this key.
const KEY: &[u8] = b"cutover";

impl SlotProbe {
    /// # Errors
    /// The error of socket(2), bind(2) or setsockopt(2): `ENOPROTOOPT` from a kernel without signatures.
    pub(crate) fn new(to: SocketAddr) -> io::Result<SlotProbe> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP));
        let socket = socket.map_err(|error| during("make a socket", error))?;
        let mut source = to;
        source.set_port(0);
        socket.bind(&source.into()).map_err(|error| during(format_args!("bind {}", to.ip()), error))?;
        tcp_md5::with_one(&socket, to, KEY).map_err(|error| during("sign (TCP_MD5SIG)", error))?;
        let source = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(SlotProbe { socket, to, source })
    }

    /// Sends the SYN. Over loopback, the SYN has arrived when this function returns.
    ///
    /// # Errors
    /// Each error of connect(2) except `EINPROGRESS`.
    pub(crate) fn knock(&self) -> io::Result<()> {
        match self.socket.connect(&self.to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(during("connect", error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::TcpListener;

    use super::*;
    use crate::sys::{sock_diag, socket};

    #[test]
    fn a_knock_is_counted_by_the_listener_and_seen_by_nobody() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("a free port");
            let address = listener.local_addr().expect("bound");
            listener.set_nonblocking(true).expect("set");
            let inode = socket::inode(&listener).expect("fstat");
            for count in 1..=3 {
                SlotProbe::new(address).expect("this kernel has signatures").knock().expect("on its way");
                assert_eq!(sock_diag::drops(address).expect("sock_diag"), BTreeMap::from([(inode, count)]));
            }
            assert!(socket::accept_now(&listener).expect("listens").is_none());
            assert!(sock_diag::knocks(address.port()).expect("sock_diag").is_empty());
        }
    }
}
