//! Splits in the real kernel: which connections come to green, and how many.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::model::share::Share;
use crate::model::steering::{Program, SLOTS_MAX, Split};
use crate::sys::socket::{self, Sharing, Stack};
use crate::sys::steering;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// 127.0.0.1 as an IPv6 socket shows it.
const MAPPED: IpAddr = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());

/// A group with blue's listeners in the first slots and green's listeners in the last slots.
struct Group {
    address: SocketAddr,
    listeners: Vec<TcpListener>,
    blue: Vec<u16>,
    green: Vec<u16>,
}

impl Group {
    fn new(address: &str, blue: u16, green: u16) -> Group {
        let first = socket::bind(address.parse().expect("an address"), Sharing::Alone, Stack::Dual).expect("bound");
        let address = first.address;
        let mut listeners = vec![first.listen(128).expect("listens")];
        for _ in 1..blue + green {
            let next = socket::bind(address, Sharing::Group, Stack::Dual).expect("bound");
            listeners.push(next.listen(128).expect("listens"));
        }
        Group { address, listeners, blue: (0..blue).collect(), green: (blue..blue + green).collect() }
    }

    fn steer(&self, source: Option<SocketAddr>, share: Share) {
        let split = Split { source, share, green: &self.green, blue: &self.blue };
        steering::attach(&self.listeners[0], &Program::split(&split).expect("two sides")).expect("attached");
    }

    /// Connects `client` to the group by `ip`, closes both ends, and returns the slot that got the connection.
    fn connect(&self, client: &Socket, ip: IpAddr) -> u16 {
        client.connect(&SocketAddr::new(ip, self.address.port()).into()).expect("connected");
        // On loopback the connection is in a queue when connect returns.
        let got = (0..).zip(&self.listeners).filter(|(_, l)| socket::accept_now(l).expect("accept").is_some());
        let got: Vec<u16> = got.map(|(slot, _)| slot).collect();
        assert_eq!(got.len(), 1, "{got:?}");
        got[0]
    }

    /// Makes `count` connections by `ip` from any port, and counts them by the slot that got them.
    fn spread(&self, ip: IpAddr, count: usize) -> BTreeMap<u16, usize> {
        let mut spread = BTreeMap::new();
        for _ in 0..count {
            *spread.entry(self.connect(&client(SocketAddr::new(ip, 0)), ip)).or_default() += 1;
        }
        spread
    }

    /// A connection from the source reaches green, for each of three source ports; 50 others around it reach only blue.
    fn tell_apart(&self, ip: IpAddr) {
        for _ in 0..3 {
            let probe = client(SocketAddr::new(ip, 0));
            self.steer(Some(local(&probe)), Share::NONE);
            assert!(self.spread(ip, 25).keys().all(|slot| self.blue.contains(slot)));
            assert!(self.green.contains(&self.connect(&probe, ip)));
            assert!(self.spread(ip, 25).keys().all(|slot| self.blue.contains(slot)));
        }
    }
}

/// A socket that is bound to `source` and leaves no TIME_WAIT behind.
fn client(source: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(source), Type::STREAM, None).expect("a socket");
    socket.bind(&source.into()).expect("bound");
    socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    socket
}

fn local(socket: &Socket) -> SocketAddr {
    socket.local_addr().expect("bound").as_socket().expect("an IP address")
}

/// Makes each packet of the socket carry IP options: one word of "no operation".
fn with_ip_options(socket: &Socket) {
    const NO_OPERATION: [u8; 4] = [1; 4];
    let (options, length) = (NO_OPERATION.as_ptr().cast(), NO_OPERATION.len() as libc::socklen_t);
    // SAFETY: the descriptor is open, and `options` points to `length` bytes that live as long as the program.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_OPTIONS, options, length) };
    assert_eq!(result, 0, "IP_OPTIONS: {}", std::io::Error::last_os_error());
}

#[test]
fn only_the_source_reaches_green() {
    Group::new("127.0.0.1:0", 1, 1).tell_apart(V4);
    Group::new("[::1]:0", 1, 1).tell_apart(V6);
    Group::new("127.0.0.1:0", 3, 2).tell_apart(V4);
}

#[test]
fn a_dual_stack_group_knows_the_source_of_either_family() {
    for group in [Group::new("[::]:0", 1, 1), Group::new("[::]:0", 2, 3)] {
        group.tell_apart(V4);
        group.tell_apart(V6);
        group.tell_apart(MAPPED);
    }
}

#[test]
fn the_source_is_known_by_ip_options_too() {
    let group = Group::new("0.0.0.0:0", 1, 1);
    let (probe, other) = (client((V4, 0).into()), client((V4, 0).into()));
    [&probe, &other].into_iter().for_each(with_ip_options);
    group.steer(Some(local(&probe)), Share::NONE);
    assert_eq!(group.connect(&other, V4), 0);
    assert_eq!(group.connect(&probe, V4), 1);
}

#[test]
fn the_same_port_of_another_host_is_not_the_source() {
    let group = Group::new("0.0.0.0:0", 1, 1);
    let probe = client((V4, 0).into());
    let other = client(([127, 0, 0, 2], local(&probe).port()).into());
    group.steer(Some(local(&probe)), Share::NONE);
    assert_eq!(group.connect(&other, V4), 0);
    assert_eq!(group.connect(&probe, V4), 1);
}

#[test]
fn nothing_and_all_are_exact() {
    for (address, ip) in [("127.0.0.1:0", V4), ("[::]:0", V6)] {
        let group = Group::new(address, 2, 2);
        let probe = client((ip, 0).into());
        group.steer(Some(local(&probe)), Share::ALL);
        assert!(group.green.contains(&group.connect(&probe, ip)));
        for (share, wanted) in [(Share::NONE, &group.blue), (Share::ALL, &group.green), (Share::NONE, &group.blue)] {
            group.steer(None, share);
            let spread = group.spread(ip, 200);
            assert_eq!(&spread.keys().copied().collect::<Vec<_>>(), wanted, "{share}: {spread:?}");
        }
    }
}

#[test]
fn a_share_is_kept_and_spread_over_the_listeners_of_each_side() {
    const ALL: usize = 5_000;
    let group = Group::new("127.0.0.1:0", 2, 2);
    let probe = client((V4, 0).into());
    group.steer(Some(local(&probe)), Share::percent(5));
    let spread = group.spread(V4, ALL);
    let of = |slots: &[u16]| slots.iter().map(|slot| spread[slot]).collect::<Vec<_>>();
    let (green, blue) = (of(&group.green), of(&group.blue));
    // 5 % with a standard deviation of 0.3 %.
    let greens: usize = green.iter().sum();
    assert!((ALL * 3 / 100..=ALL * 7 / 100).contains(&greens), "{spread:?}");
    for side in [green, blue] {
        let sum: usize = side.iter().sum();
        assert!(side.iter().all(|&one| one * 10 > sum * 3), "one of two got less than 30 %: {spread:?}");
    }
    assert!(group.green.contains(&group.connect(&probe, V4)), "the source, whatever the share is");
}

#[test]
fn the_kernel_takes_the_largest_split_and_jumps_as_far() {
    let mut group = Group::new("[::]:0", 1, 1);
    // A slot that is named again does not follow itself, so this is the longest program for these slots.
    (group.blue, group.green) = (vec![0; SLOTS_MAX], vec![1; SLOTS_MAX]);
    group.tell_apart(V4);
    group.tell_apart(V6);
    group.steer(None, Share::percent(50));
    assert_eq!(group.spread(V4, 200).len(), 2);
}
