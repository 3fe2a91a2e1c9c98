//! Which addresses take connections away from which: what a next generation may listen on beside the living one.

use std::net::{IpAddr, SocketAddr};

/// What the program was asked to listen on, and what it listens on: they differ in the port if 0 was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Bound {
    pub(crate) asked: SocketAddr,
    pub(crate) bound: SocketAddr,
}

/// Whether a dual-stack wildcard is meant: `[::]`, unless `0.0.0.0` with the same port is listed beside it.
pub(crate) fn is_dual_stack(address: SocketAddr, all: &[SocketAddr]) -> bool {
    let beside = |other: &SocketAddr| {
        other.port() == address.port() && matches!(other.ip(), IpAddr::V4(ip) if ip.is_unspecified())
    };
    matches!(address.ip(), IpAddr::V6(ip) if ip.is_unspecified()) && !all.iter().any(beside)
}

/// The addresses for a next generation: where the same was asked for, what the living generation is bound to.
///
/// Several equal requests (`127.0.0.1:0` twice) are answered in their order.
pub(crate) fn inherit(asked: &[SocketAddr], living: &[Bound]) -> Vec<Bound> {
    let mut left = living.to_vec();
    asked
        .iter()
        .map(|&asked| match left.iter().position(|b| b.asked == asked) {
            Some(at) => left.remove(at),
            None => Bound { asked, bound: asked },
        })
        .collect()
}

/// Says why a next generation on `next` would take connections from, or leave connections at, a living one on `living`.
///
/// The kernel prefers the more specific of two listeners whatever a steering program says (`compute_score` in
/// net/ipv4/inet_hashtables.c, Linux 6.18), so an address that overlaps without being the same cannot be steered.
///
/// # Errors
/// The two addresses, and what would happen.
pub(crate) fn check_replacement(next: &[SocketAddr], living: &[SocketAddr]) -> Result<(), String> {
    for &new in next.iter().filter(|new| !living.contains(new)) {
        if let Some(old) = living.iter().find(|old| overlap(**old, new)) {
            return Err(format!(
                "it would listen on {new} beside {old} of the living one, and take a part of its connections at once: \
                 a changed address needs a restart"
            ));
        }
    }
    match living.iter().find(|old| !next.contains(old)) {
        Some(old) => {
            Err(format!("it would not listen on {old}, as the living one does: a changed address needs a restart"))
        }
        None => Ok(()),
    }
}

/// Whether one packet could belong to either of these.
pub(crate) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let wild = |ip: IpAddr| ip.is_unspecified();
    let (x, y) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port()
        && match (x, y) {
            _ if x == y => true,
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => wild(x) || wild(y),
            // `[::]` may be dual-stack; one that is not is refused by our own bind before it comes to this.
            (IpAddr::V6(_), IpAddr::V4(_)) => wild(x),
            (IpAddr::V4(_), IpAddr::V6(_)) => wild(y),
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
            Bound { asked: at("127.0.0.1:0"), bound: at("127.0.0.1:4001") },
            Bound { asked: at("127.0.0.1:0"), bound: at("127.0.0.1:4002") },
        ];
        let next = inherit(&[at("127.0.0.1:0"), at("[::1]:80"), at("127.0.0.1:0")], &living);
        let bound: Vec<_> = next.iter().map(|b| b.bound).collect();
        assert_eq!(bound, [at("127.0.0.1:4001"), at("[::1]:80"), at("127.0.0.1:4002")]);
    }

    #[test]
    fn the_same_and_more_is_allowed_less_and_overlapping_is_not() {
        let living = [at("0.0.0.0:80")];
        assert_eq!(check_replacement(&[at("0.0.0.0:80"), at("0.0.0.0:81")], &living), Ok(()));
        for next in ["127.0.0.1:80", "[::]:80", "0.0.0.0:81"] {
            let why = check_replacement(&[at(next)], &living).expect_err(next);
            assert!(why.contains("0.0.0.0:80"), "{why}");
        }
        check_replacement(&[at("0.0.0.0:80"), at("127.0.0.1:80")], &living)
            .expect_err("the more specific one takes over");
    }

    #[test]
    fn a_wildcard_is_dual_stack_unless_both_are_asked_for() {
        assert!(is_dual_stack(at("[::]:80"), &[at("[::]:80"), at("0.0.0.0:81")]));
        assert!(!is_dual_stack(at("[::]:80"), &[at("[::]:80"), at("0.0.0.0:80")]));
        assert!(!is_dual_stack(at("[::1]:80"), &[]));
    }
}
