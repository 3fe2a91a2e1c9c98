//! Which addresses a next generation may listen on beside the living one, and which would take connections away from
//! it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// An address that the program was asked to listen on, and the one it is bound to: the port differs if port 0 was asked
/// for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Bound {
    pub(crate) asked: SocketAddr,
    pub(crate) bound: SocketAddr,
    #[serde(default)]
    pub(crate) offer: Offer,
}

/// The service that an address offers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Offer {
    /// The application that the server is for.
    #[default]
    Application,
    Metrics,
}

/// Whether the address means a dual-stack wildcard: `[::]`, unless `0.0.0.0` with the same port is listed beside it.
pub(crate) fn is_dual_stack(address: SocketAddr, all: &[SocketAddr]) -> bool {
    let beside = |other: &SocketAddr| {
        other.port() == address.port() && matches!(other.ip(), IpAddr::V4(ip) if ip.is_unspecified())
    };
    matches!(address.ip(), IpAddr::V6(ip) if ip.is_unspecified()) && !all.iter().any(beside)
}

/// The addresses for a next generation: where the living generation was asked for the same address, the address that it
/// is bound to.
///
/// Several equal addresses (`127.0.0.1:0` twice) are matched in their order.
pub(crate) fn inherit(asked: &[(SocketAddr, Offer)], living: &[Bound]) -> Vec<Bound> {
    let mut left = living.to_vec();
    asked
        .iter()
        .map(|&(asked, offer)| match left.iter().position(|b| b.asked == asked && b.offer == offer) {
            Some(at) => left.remove(at),
            None => Bound { asked, bound: asked, offer },
        })
        .collect()
}

/// Checks that a next generation on `next` takes no connection from a living one on `living` before the steering gives it
/// the connection.
///
/// The kernel prefers the more specific of two listeners whatever a steering program returns (`compute_score` in
/// net/ipv4/inet_hashtables.c, Linux 6.18), so an address that overlaps with another address without being equal cannot
/// be steered. An address of `living` that is not in `next` stays with the living generation until that one retires.
///
/// # Errors
/// The two addresses, and what would happen.
pub(crate) fn check_replacement(next: &[Bound], living: &[Bound]) -> Result<(), BadReplacement> {
    let other = |new: &&Bound| living.iter().any(|old| old.bound == new.bound && old.offer != new.offer);
    if let Some(new) = next.iter().find(other) {
        let (address, offer) = (new.bound, new.offer);
        return Err(BadReplacement::OtherOffer { address, offer });
    }
    let bound = |all: &[Bound]| all.iter().map(|a| a.bound).collect::<Vec<_>>();
    let (next, living) = (bound(next), bound(living));
    for &new in next.iter().filter(|new| !living.contains(new)) {
        if let Some(old) = living.iter().find(|old| overlap(**old, new)) {
            return Err(BadReplacement::Overlap { new, old: *old });
        }
    }
    let changes =
        |all: &&SocketAddr| living.contains(all) && is_dual_stack(**all, &next) != is_dual_stack(**all, &living);
    match next.iter().find(changes) {
        Some(&wildcard) => Err(BadReplacement::Stack(wildcard)),
        None => Ok(()),
    }
}

/// Why a next generation may not replace the live one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadReplacement {
    #[error(
        "it would listen on {address} for its {offer}, and the live generation listens there for something else: this \
         needs a restart"
    )]
    OtherOffer { address: SocketAddr, offer: Offer },
    #[error(
        "it would listen on {new}, which overlaps with {old} of the live generation: the kernel gives connections to the \
         more specific address, whichever generation is to have them, so this needs a restart or another port"
    )]
    Overlap { new: SocketAddr, old: SocketAddr },
    /// Which connections `[::]` gets depends on whether `0.0.0.0` is listed beside it.
    #[error("it would listen on {0} for other connections of IPv4 than the live generation, which needs a restart")]
    Stack(SocketAddr),
}

/// Whether one packet could match both addresses.
pub(crate) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let wild = |ip: IpAddr| ip.is_unspecified();
    let (x, y) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port()
        && match (x, y) {
            _ if x == y => true,
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => wild(x) || wild(y),
            // `[::]` may be dual-stack; our own bind refuses a `[::]` that is not, before this function is called.
            (IpAddr::V6(_), IpAddr::V4(_)) => wild(x),
            (IpAddr::V4(_), IpAddr::V6(_)) => wild(y),
        }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Offer::Application => "application",
            Offer::Metrics => "metrics",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn port_zero_is_kept_in_order() {
        let living = [
            Bound { asked: at("127.0.0.1:0"), bound: at("127.0.0.1:4000"), offer: Offer::Metrics },
            Bound { asked: at("127.0.0.1:0"), bound: at("127.0.0.1:4001"), offer: Offer::Application },
            Bound { asked: at("127.0.0.1:0"), bound: at("127.0.0.1:4002"), offer: Offer::Application },
        ];
        let asked = ["127.0.0.1:0", "[::1]:80", "127.0.0.1:0"].map(|asked| (at(asked), Offer::Application));
        let metrics = [(at("127.0.0.1:0"), Offer::Metrics)];
        let next = inherit(&[&asked[..], &metrics].concat(), &living);
        let bound: Vec<_> = next.iter().map(|b| b.bound).collect();
        assert_eq!(bound, ["127.0.0.1:4001", "[::1]:80", "127.0.0.1:4002", "127.0.0.1:4000"].map(at));
    }

    #[test]
    fn other_addresses_are_allowed_and_overlapping_ones_are_not() {
        let of = |offer| move |text| Bound { asked: at(text), bound: at(text), offer };
        let (application, metrics) = (of(Offer::Application), of(Offer::Metrics));
        let living = [application("0.0.0.0:80")];
        for other in [application("0.0.0.0:81"), metrics("0.0.0.0:81")] {
            assert_eq!(check_replacement(&[living[0], other], &living), Ok(()));
            assert_eq!(check_replacement(&[other], &living), Ok(()));
        }
        for next in ["127.0.0.1:80", "[::]:80"] {
            let why = check_replacement(&[application(next)], &living).expect_err(next);
            assert!(why.to_string().contains("0.0.0.0:80"), "{why}");
        }
        check_replacement(&[living[0], application("127.0.0.1:80")], &living)
            .expect_err("the more specific one takes over");
        let exchanged = [metrics("0.0.0.0:80"), application("0.0.0.0:81")];
        let why = check_replacement(&exchanged, &[living[0], metrics("0.0.0.0:81")]).expect_err("exchanged");
        assert!(why.to_string().contains("0.0.0.0:80 for its metrics"), "{why}");
        let both = [application("[::]:80"), application("0.0.0.0:80")];
        assert_eq!(check_replacement(&both[..1], &both), Err(BadReplacement::Stack(at("[::]:80"))));
        assert_eq!(check_replacement(&both[1..], &both), Ok(()));
    }

    #[test]
    fn a_wildcard_is_dual_stack_unless_both_are_asked_for() {
        assert!(is_dual_stack(at("[::]:80"), &[at("[::]:80"), at("0.0.0.0:81")]));
        assert!(!is_dual_stack(at("[::]:80"), &[at("[::]:80"), at("0.0.0.0:80")]));
        assert!(!is_dual_stack(at("[::1]:80"), &[]));
    }
}
