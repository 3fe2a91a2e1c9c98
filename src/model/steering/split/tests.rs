//! Splits in the interpreter: the connections that go to green and to blue, and how often.

use proptest::prelude::*;

use super::super::interpreter::{check, run};
use super::*;

/// A SYN as the kernel shows it, from the IP header on.
fn packet(source: SocketAddr, option_words: u8) -> Vec<u8> {
    let mut packet = match source.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let mut header = vec![0; 20];
            header[0] = 0x40 | (5 + option_words);
            header[12..16].copy_from_slice(&ip.octets());
            // Options that look like a port at the offset of a header without options.
            header.extend(source.port().to_be_bytes().repeat(2 * usize::from(option_words)));
            header
        }
        IpAddr::V6(ip) => {
            let mut header = vec![0; 40];
            header[0] = 0x60;
            header[6] = 6;
            header[8..24].copy_from_slice(&ip.octets());
            header
        }
    };
    packet.extend(source.port().to_be_bytes());
    packet.extend([0; 18]);
    packet
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn share(percent: f64) -> Share {
    Share::try_from(percent).expect("a share")
}

/// The slots from here on are blue's, in these tests.
const BLUE: u16 = 0x8000;

fn is_green(slot: u32) -> bool {
    slot < BLUE.into()
}

#[track_caller]
fn recognised(source: &str) -> impl Fn(&[u8]) -> bool + use<> {
    let split = Split { source: Some(address(source)), share: Share::NONE, green: &[2], blue: &[BLUE] };
    let program = Program::split(&split).expect("two sides");
    check(&program);
    move |packet| is_green(run(&program, packet, &[]))
}

#[test]
fn the_source_is_recognised_by_address_and_port() {
    let v4 = recognised("10.1.2.3:4567");
    assert!(v4(&packet(address("10.1.2.3:4567"), 0)));
    assert!(v4(&packet(address("[::ffff:10.1.2.3]:4567"), 0)));
    for other in ["10.1.2.3:4568", "10.1.2.4:4567", "[::1]:4567", "[::a01:203]:4567"] {
        assert!(!v4(&packet(address(other), 0)), "{other}");
    }
    let v6 = recognised("[fd00::1:2:3:4%7]:4567");
    assert!(v6(&packet(address("[fd00::1:2:3:4]:4567"), 0)));
    for other in ["[fd00::1:2:3:4]:4568", "[fd00::1:2:3:5]:4567", "[fd01::1:2:3:4]:4567", "[fd00::1:3:3:4]:4567"] {
        assert!(!v6(&packet(address(other), 0)), "{other}");
    }
    assert!(!v6(&packet(address("10.1.2.3:4567"), 10)));
}

#[test]
fn a_mapped_source_means_ipv4() {
    let mapped = recognised("[::ffff:127.0.0.1]:80");
    assert!(mapped(&packet(address("127.0.0.1:80"), 0)));
    assert!(!mapped(&packet(address("[::1]:80"), 0)));
}

#[test]
fn ip_options_do_not_hide_the_port() {
    let recognised = recognised("10.1.2.3:4567");
    for words in 0..=10 {
        assert!(recognised(&packet(address("10.1.2.3:4567"), words)), "{words}");
        let mut other = packet(address("10.1.2.3:4567"), words);
        other[20 + 4 * usize::from(words)] ^= 1;
        assert!(!recognised(&other), "a port in the options is none, {words}");
    }
}

#[test]
fn behind_an_extension_header_nothing_is_recognised() {
    let recognised = recognised("[::1]:4567");
    let mut routed = packet(address("[::1]:4567"), 0);
    routed[6] = 43;
    assert!(!recognised(&routed));
}

#[test]
fn a_side_that_gets_nothing_may_be_empty_and_no_other() {
    let source = Some(address("127.0.0.1:1"));
    let split = |source, share, green: &[u16], blue: &[u16]| {
        Program::split(&Split { source, share, green, blue }).map(|program| run(&program, &[], &[0, 0]))
    };
    assert_eq!(split(None, Share::ALL, &[2], &[]), Some(2));
    assert_eq!(split(source, Share::ALL, &[2], &[]), Some(2));
    assert_eq!(split(None, Share::NONE, &[], &[1]), Some(1));
    assert_eq!(split(source, Share::NONE, &[], &[1]), None);
    assert_eq!(split(source, Share::NONE, &[2], &[]), None);
    assert_eq!(split(None, share(5.0), &[], &[1]), None);
    assert_eq!(split(None, share(5.0), &[2], &[]), None);
    assert_eq!(split(None, share(5.0), &[2], &vec![1; SLOTS_MAX + 1]), None);
    assert_eq!(split(None, share(5.0), &vec![2; SLOTS_MAX + 1], &[1]), None);
}

#[test]
fn the_largest_split_fits_in_one_program() {
    let (green, blue) = (vec![2; SLOTS_MAX], vec![1; SLOTS_MAX]);
    let split = Split { source: Some(address("[::1]:80")), share: share(50.0), green: &green, blue: &blue };
    let program = Program::split(&split).expect("within the limits");
    check(&program);
    let last = u32::try_from(SLOTS_MAX).expect("small") - 1;
    assert_eq!(run(&program, &packet(address("[::1]:80"), 0), &[last]), 2);
    assert_eq!(run(&program, &packet(address("[::1]:81"), 0), &[4999, last]), 2);
    assert_eq!(run(&program, &packet(address("[::1]:81"), 0), &[5000, last]), 1);
}

fn sources() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        any::<[u8; 4]>().prop_map(|v4| IpAddr::from(Ipv4Addr::from(v4).to_ipv6_mapped())),
    ];
    (ip, any::<u16>()).prop_map(SocketAddr::from)
}

/// Some slots from `first` on: consecutive, or not.
fn slots(first: u16) -> impl Strategy<Value = Vec<u16>> {
    let row = (first..first + 9_000, 1_u16..300).prop_map(|(from, count)| (from..from + count).collect());
    prop_oneof![row, proptest::collection::vec(first..first + 9_000, 1..300)]
}

/// `source` with one bit of the address or the port changed.
fn neighbour(source: SocketAddr, bit: usize) -> SocketAddr {
    let flipped = |mut ip: Vec<u8>| {
        let bits = 8 * ip.len();
        ip[bit % bits / 8] ^= 1 << (bit % 8);
        ip
    };
    match (source.ip().to_canonical(), bit % 3) {
        (_, 0) => SocketAddr::new(source.ip(), source.port() ^ 1 << (bit / 3 % 16)),
        (IpAddr::V4(ip), _) => {
            let ip: [u8; 4] = flipped(ip.octets().to_vec()).try_into().expect("as many as before");
            SocketAddr::new(ip.into(), source.port())
        }
        (IpAddr::V6(ip), _) => {
            let ip: [u8; 16] = flipped(ip.octets().to_vec()).try_into().expect("as many as before");
            SocketAddr::new(ip.into(), source.port())
        }
    }
}

proptest! {
    /// The source always reaches green, a source that differs in one bit is treated as all others, and every slot
    /// belongs to its side.
    #[test]
    fn each_packet_comes_to_its_side(
        source in sources(), bit: usize, words in 0_u8..=10, hundredths in 0_u16..10_000, random: [u32; 2],
        green in slots(0), blue in slots(BLUE),
    ) {
        let share = share(f64::from(hundredths) / 100.0);
        let program = Program::split(&Split { source: Some(source), share, green: &green, blue: &blue });
        let program = program.expect("two sides");
        check(&program);
        let slot = run(&program, &packet(source, words), &random);
        prop_assert!(green.iter().any(|&g| u32::from(g) == slot));
        let randoms = if share == Share::NONE { &random[1..] } else { &random[..] };
        let slot = run(&program, &packet(neighbour(source, bit), words), randoms);
        let expected = if random[0] % 10_000 < u32::from(hundredths) { &green } else { &blue };
        prop_assert!(expected.iter().any(|&s| u32::from(s) == slot));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Of all values of the random word modulo 10,000, exactly the share leads to green.
    #[test]
    fn the_share_is_exact(
        source in proptest::option::of(sources()), hundredths in 0_u16..=10_000, second: u32,
        green in slots(0), blue in slots(BLUE),
    ) {
        let share = share(f64::from(hundredths) / 100.0);
        let program = Program::split(&Split { source, share, green: &green, blue: &blue }).expect("two sides");
        check(&program);
        let other = source.map_or(Vec::new(), |source| packet(neighbour(source, 0), 0));
        let greens = (0..10_000).filter(|&random| is_green(run(&program, &other, &[random, second]))).count();
        prop_assert_eq!(greens, usize::from(hundredths));
    }
}
