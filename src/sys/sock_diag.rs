//! What the kernel shows of a port: its listeners, and its handshakes in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, InetResponseHeader, SocketId, StateFlags,
};

use super::netlink;
use super::socket::Stack;
use crate::model::addresses::overlap;
use crate::model::identity::Inode;

/// A listening socket, as sock_diag shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    pub(crate) inode: Inode,
    pub(crate) uid: u32,
    /// Of an IPv6 listener: whether it takes IPv4, too (INET_DIAG_SKV6ONLY, Linux 4.5).
    pub(crate) stack: Stack,
}

impl Listening {
    /// Whether a connection to `address` may come to this listener.
    pub(crate) fn takes(&self, address: SocketAddr) -> bool {
        let is_of_other_family = self.address.is_ipv6() != address.is_ipv6();
        overlap(self.address, address) && !(is_of_other_family && self.stack == Stack::Single)
    }
}

/// A handshake in flight: the address of the client, and the local address.
pub(crate) type PendingHandshake = (SocketAddr, SocketAddr);

/// All TCP listeners on `port`, of any address.
///
/// Works for an unprivileged uid, and shows the listeners of other uids too (inet_diag, Linux 6.18).
pub(crate) fn listeners(port: u16) -> io::Result<Vec<Listening>> {
    let mut found = Vec::new();
    dump_with(port, StateFlags::LISTEN, ExtensionFlags::empty(), |row| {
        let (address, inode, uid) = (here(&row.header), Inode(row.header.inode.into()), row.header.uid);
        found.push(Listening { address, inode, uid, stack: stack(row) });
    })?;
    Ok(found)
}

/// The listeners of exactly this address, by inode, with their uid: the members of one group, if all set SO_REUSEPORT.
pub(crate) fn group(address: SocketAddr) -> io::Result<BTreeMap<Inode, u32>> {
    let all = listeners(address.port())?;
    Ok(all.into_iter().filter(|l| l.address.ip() == address.ip()).map(|l| (l.inode, l.uid)).collect())
}

/// Whether the listeners of exactly this address take IPv4 too, if they are of IPv6 (INET_DIAG_SKV6ONLY, Linux 4.5),
/// and the uid that they belong to. `None` if the listeners differ, or one is bound to an interface: such listeners are
/// not one group (`inet_reuseport_add_sock` in net/ipv4/inet_hashtables.c, Linux 6.18).
pub(crate) fn kind(address: SocketAddr) -> io::Result<Option<(Stack, u32)>> {
    let mut found = BTreeSet::new();
    dump_with(address.port(), StateFlags::LISTEN, ExtensionFlags::empty(), |row| {
        if here(&row.header).ip() == address.ip() {
            let is_single = stack(row) == Stack::Single;
            found.insert((is_single, row.header.uid, row.header.socket_id.interface_id));
        }
    })?;
    Ok(match found.iter().copied().collect::<Vec<_>>()[..] {
        [(is_single, uid, 0)] => Some((if is_single { Stack::Single } else { Stack::Dual }, uid)),
        _ => None,
    })
}

/// The number of connections in the accept queue of each listener on `port` (`sk_ack_backlog`, shown as the receive
/// queue: sock_diag(7)).
pub(crate) fn queues(port: u16) -> io::Result<BTreeMap<Inode, u32>> {
    let mut found = BTreeMap::new();
    dump(port, StateFlags::LISTEN, |row| {
        found.insert(Inode(row.inode.into()), row.recv_queue);
    })?;
    Ok(found)
}

/// The handshakes in flight at `port`: the last ACK of the handshake has not come, or has not yet put the connection
/// into an accept queue.
///
/// Requests are shown in state SYN_RECV (TCP_NEW_SYN_RECV, Linux 4.4), and so is the new socket until it has been put
/// into the queue (`tcp_child_process` after `inet_csk_complete_hashdance`, Linux 6.18). So there is no moment at which
/// a handshake is not shown.
pub(crate) fn knocks(port: u16) -> io::Result<BTreeSet<PendingHandshake>> {
    let mut found = BTreeSet::new();
    dump(port, StateFlags::SYN_RECV, |row| {
        let id = &row.socket_id;
        found.insert((SocketAddr::new(id.destination_address, id.destination_port), here(row)));
    })?;
    Ok(found)
}

/// The sockets of all connections to `port` that a process has, in each state except the handshake and TIME_WAIT.
pub(crate) fn connections(port: u16) -> io::Result<BTreeSet<Inode>> {
    let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::SYN_RECV - StateFlags::TIME_WAIT;
    let mut found = BTreeSet::new();
    dump(port, states, |row| {
        // A socket without an inode waits in an accept queue, or its process has closed it.
        if row.inode != 0 {
            found.insert(Inode(row.inode.into()));
        }
    })?;
    Ok(found)
}

/// The sockets of the connections to `port` on which no byte has come yet: the process that has accepted such a
/// connection waits for its client's request. (`tcpi_bytes_received` of `struct tcp_info`, Linux 4.1.)
pub(crate) fn unheard(port: u16) -> io::Result<BTreeSet<Inode>> {
    const BYTES_RECEIVED: usize = 128;
    let mut found = BTreeSet::new();
    dump_with(port, StateFlags::ESTABLISHED, ExtensionFlags::INFO, |row| {
        let info = row.nlas.iter().find_map(|nla| if let Nla::TcpInfo(info) = nla { Some(info) } else { None });
        let received = info.and_then(|info| info.get(BYTES_RECEIVED..)?.first_chunk()).map(|b| u64::from_ne_bytes(*b));
        if received == Some(0) && row.header.inode != 0 {
            found.insert(Inode(row.header.inode.into()));
        }
    })?;
    Ok(found)
}

/// The number of packets that each listener of exactly this address has dropped (SK_MEMINFO_DROPS, Linux 4.6).
pub(crate) fn drops(address: SocketAddr) -> io::Result<BTreeMap<Inode, u32>> {
    let mut found = BTreeMap::new();
    dump_with(address.port(), StateFlags::LISTEN, ExtensionFlags::SKMEMINFO, |row| {
        let memory = row.nlas.iter().find_map(|nla| if let Nla::MemInfo(memory) = nla { Some(memory) } else { None });
        if let Some(memory) = memory.filter(|_| here(&row.header).ip() == address.ip()) {
            found.insert(Inode(row.header.inode.into()), memory.drops);
        }
    })?;
    Ok(found)
}

/// All TCP listeners of this network namespace.
pub(crate) fn all_listeners() -> io::Result<Vec<Listening>> {
    listeners(0)
}

fn stack(row: &InetResponse) -> Stack {
    match row.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true))) {
        true => Stack::Single,
        false => Stack::Dual,
    }
}

fn here(row: &InetResponseHeader) -> SocketAddr {
    SocketAddr::new(row.socket_id.source_address, row.socket_id.source_port)
}

fn dump(port: u16, states: StateFlags, mut each: impl FnMut(&InetResponseHeader)) -> io::Result<()> {
    dump_with(port, states, ExtensionFlags::empty(), |row| each(&row.header))
}

fn dump_with(
    port: u16,
    states: StateFlags,
    extensions: ExtensionFlags,
    mut each: impl FnMut(&InetResponse),
) -> io::Result<()> {
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
        let (protocol, states, extensions) = (IPPROTO_TCP, states.clone(), extensions.clone());
        netlink::dump(InetRequest { family, protocol, extensions, states, socket_id }, |row| {
            // The kernel filters by port already; an IPv6 dump must not repeat what the IPv4 dump showed.
            // Port 0 stands for all ports.
            if (port == 0 || row.header.socket_id.source_port == port) && row.header.family == family {
                each(row);
            }
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket;
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
    fn whether_ipv4_is_taken_too_is_seen_and_whose_it_is() {
        let own = rustix::process::geteuid().as_raw();
        for (address, stack) in [("127.0.0.1:0", Stack::Dual), ("[::]:0", Stack::Dual), ("[::]:0", Stack::Single)] {
            let bound = socket::bind(address.parse().expect("one"), socket::Sharing::Alone, stack).expect("bound");
            let address = bound.address;
            let _listener = bound.listen(1).expect("listens");
            assert_eq!(kind(address).expect("sock_diag"), Some((stack, own)));
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
    fn what_waits_in_an_accept_queue_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let inode = crate::sys::socket::inode(&listener).expect("fstat");
        let _clients = [(); 2].map(|()| std::net::TcpStream::connect(address).expect("the queue takes it"));
        assert_eq!(queues(address.port()).expect("sock_diag"), BTreeMap::from([(inode, 2)]));
        drop(listener.accept().expect("one"));
        assert_eq!(queues(address.port()).expect("sock_diag"), BTreeMap::from([(inode, 1)]));
    }

    #[test]
    fn a_connection_on_which_nothing_has_come_is_told_from_one_on_which_something_has() {
        use std::io::{Read as _, Write as _};
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let accept = || {
            let client = std::net::TcpStream::connect(address).expect("the queue takes it");
            (client, listener.accept().expect("one").0)
        };
        let (_silent, (mut speaking, mut server)) = (accept(), accept());
        assert_eq!(unheard(address.port()).expect("sock_diag").len(), 2);
        speaking.write_all(b"x").expect("sent");
        server.read_exact(&mut [0]).expect("it has come");
        let silent = crate::sys::socket::inode(&_silent.1).expect("fstat");
        assert_eq!(unheard(address.port()).expect("sock_diag"), BTreeSet::from([silent]));
        assert!(all_listeners().expect("sock_diag").iter().any(|l| l.address == address));
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
