//! What the kernel shows of a port: who listens, and which handshakes are in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};

use super::netlink;
use crate::model::identity::Inode;

/// A listening socket, as sock_diag shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    pub(crate) inode: Inode,
    pub(crate) uid: u32,
}

/// A handshake in flight: who knocks, and at which of our addresses.
pub(crate) type Knock = (SocketAddr, SocketAddr);

/// All TCP listeners on `port`, of any address.
///
/// Works for an unprivileged uid, and shows the listeners of others too (inet_diag, Linux 6.18).
pub(crate) fn listeners(port: u16) -> io::Result<Vec<Listening>> {
    let mut found = Vec::new();
    dump(port, StateFlags::LISTEN, |row| {
        found.push(Listening { address: here(row), inode: Inode(row.inode.into()), uid: row.uid });
    })?;
    Ok(found)
}

/// The listeners of exactly this address, by inode, with their uid: the members of one group, if all set SO_REUSEPORT.
pub(crate) fn group(address: SocketAddr) -> io::Result<BTreeMap<Inode, u32>> {
    let all = listeners(address.port())?;
    Ok(all.into_iter().filter(|l| l.address.ip() == address.ip()).map(|l| (l.inode, l.uid)).collect())
}

/// The handshakes in flight at `port`: those for which the last ACK has not come, or has not yet put the connection into
/// an accept queue.
///
/// Requests are shown in state SYN_RECV (TCP_NEW_SYN_RECV, Linux 4.4), and so is the new socket until it has been put
/// into the queue (`tcp_child_process` after `inet_csk_complete_hashdance`, Linux 6.18): there is no moment in between.
pub(crate) fn knocks(port: u16) -> io::Result<BTreeSet<Knock>> {
    let mut found = BTreeSet::new();
    dump(port, StateFlags::SYN_RECV, |row| {
        let id = &row.socket_id;
        found.insert((SocketAddr::new(id.destination_address, id.destination_port), here(row)));
    })?;
    Ok(found)
}

/// The sockets of all connections to `port` that a process has, in whatever state but the handshake and TIME_WAIT.
pub(crate) fn connections(port: u16) -> io::Result<BTreeSet<Inode>> {
    let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::SYN_RECV - StateFlags::TIME_WAIT;
    let mut found = BTreeSet::new();
    dump(port, states, |row| {
        // No inode: it waits in an accept queue, or its process has closed it.
        if row.inode != 0 {
            found.insert(Inode(row.inode.into()));
        }
    })?;
    Ok(found)
}

fn here(row: &InetResponseHeader) -> SocketAddr {
    SocketAddr::new(row.socket_id.source_address, row.socket_id.source_port)
}

fn dump(port: u16, states: StateFlags, mut each: impl FnMut(&InetResponseHeader)) -> io::Result<()> {
    for (family, unspecified) in
        [(AF_INET, IpAddr::V4(Ipv4Addr::UNSPECIFIED)), (AF_INET6, IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    {
        let socket_id = SocketId {
            source_port: port,
            destination_port: 0,
            source_address: unspecified,
            destination_address: unspecified,
            interface_id: 0,
            cookie: [0xff; 8],
        };
        let (protocol, states, extensions) = (IPPROTO_TCP, states.clone(), ExtensionFlags::empty());
        netlink::dump(InetRequest { family, protocol, extensions, states, socket_id }, |row| {
            // The kernel filters by port already; an IPv6 dump must not repeat what the IPv4 one showed.
            if row.socket_id.source_port == port && row.family == family {
                each(row);
            }
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listener_is_seen_under_its_address_with_its_uid() {
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"] {
            let listener = TcpListener::bind(address).expect("a free port");
            let address = listener.local_addr().expect("bound");
            let group = group(address).expect("sock_diag");
            assert_eq!(group.len(), 1, "{address}: {group:?}");
            assert_eq!(group.values().next(), Some(&rustix::process::geteuid().as_raw()));
        }
    }

    #[test]
    fn an_accepted_connection_is_seen_and_one_in_the_queue_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let _client = std::net::TcpStream::connect(address).expect("the queue takes it");
        assert_eq!(connections(address.port()).expect("sock_diag"), BTreeSet::new());
        let (accepted, _) = listener.accept().expect("one");
        let inode = crate::sys::socket::inode(&accepted).expect("fstat");
        assert_eq!(connections(address.port()).expect("sock_diag"), BTreeSet::from([inode]));
    }

    #[test]
    fn a_port_that_nobody_listens_on_shows_nobody() {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("bound").port()
        };
        assert_eq!(listeners(port).expect("sock_diag"), vec![]);
        assert_eq!(knocks(port).expect("sock_diag"), BTreeSet::new());
    }
}
