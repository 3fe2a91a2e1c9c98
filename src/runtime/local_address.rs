//! Addresses by which this process connects to listeners of this machine.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpSocket;

use crate::sys::during;

/// The address at which a listener is reached from this host: loopback for a listener on all addresses, otherwise the
/// address of the listener.
pub(crate) fn reached(listener: SocketAddr) -> SocketAddr {
    let port = listener.port();
    match listener.ip().to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => (Ipv4Addr::LOCALHOST, port).into(),
        // A host with net.ipv6.conf.lo.disable_ipv6=1, as in many containers, has no ::1.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) if bound((Ipv6Addr::LOCALHOST, 0).into()).is_err() => {
            (Ipv4Addr::LOCALHOST, port).into()
        }
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => (Ipv6Addr::LOCALHOST, port).into(),
        IpAddr::V4(ip) => (ip, port).into(),
        IpAddr::V6(_) => listener,
    }
}

/// A socket that is bound to a source that no other socket has.
///
/// Without SO_REUSEADDR and SO_REUSEPORT no other socket can be bound to the same port, and connect(2) passes over a
/// port that is bound (`__inet_hash_connect` in net/ipv4/inet_hashtables.c, Linux 6.18).
pub(crate) fn bound(source: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(|error| during("make a socket", error))?;
    socket.bind(source).map_err(|error| during(format_args!("bind {}", source.ip()), error))?;
    Ok(socket)
}
