//! Whether the unit permits what a server needs: ports, sockets, system calls, folders.

mod calls;
mod folders;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::Unit;
use crate::doctor::finding::Finding;

const BIND: &str = "cap_net_bind_service";

pub(super) fn findings(unit: &Unit) -> Vec<Finding> {
    let mut all: Vec<Finding> = ports(unit);
    all.extend([user(unit), network(unit)].into_iter().flatten());
    all.push(families(unit));
    all.extend(calls::findings(unit));
    all.extend(folders::findings(unit));
    all
}

/// The right to bind the ports below 1024, in each generation.
fn ports(unit: &Unit) -> Vec<Finding> {
    let low = |address: &&SocketAddr| (1..unit.first_unprivileged_port).contains(&address.port());
    let ports: BTreeSet<u16> = unit.addresses.iter().filter(low).map(SocketAddr::port).collect();
    ports.into_iter().map(|port| right(unit, port)).collect()
}

fn right(unit: &Unit, port: u16) -> Finding {
    let subject = format!("port {port}");
    let has = |key: &str| unit.shown.words(key).any(|capability| capability == BIND);
    // If systemd does not show the property, no capability is taken away.
    let bounded = unit.shown.shown("CapabilityBoundingSet").is_some() && !has("CapabilityBoundingSet");
    if bounded {
        let what = "CapabilityBoundingSet= takes CAP_NET_BIND_SERVICE away: the port cannot be bound";
        return Finding::problem(subject, what, "CapabilityBoundingSet=CAP_NET_BIND_SERVICE");
    }
    if unit.shown.is("PrivateUsers", "yes") {
        let what = "PrivateUsers=yes: capabilities do not hold outside of the unit's user namespace, and the port cannot \
                    be bound";
        return Finding::problem(subject, what, "PrivateUsers=no, or another port");
    }
    if !unit.is_root() && !has("AmbientCapabilities") {
        let what = format!("the user {} may not bind it", unit.shown.one("User"));
        return Finding::problem(subject, what, "AmbientCapabilities=CAP_NET_BIND_SERVICE");
    }
    Finding::ok(subject, "each generation may bind it")
}

/// A server that starts as root and then becomes another user cannot bind again: a group belongs to one user.
fn user(unit: &Unit) -> Option<Finding> {
    const SUBJECT: &str = "User";
    const FIX: &str = "User= or DynamicUser=yes, and AmbientCapabilities=CAP_NET_BIND_SERVICE for a port below 1024";
    let keeps_root =
        unit.shown.commands("ExecStartEx").iter().any(|c| c.flags.contains("no-setuid") && !unit.is_root());
    match unit.main_uid {
        Some(uid) if unit.is_root() && uid != 0 => Some(Finding::problem(
            SUBJECT,
            format!(
                "the server was started as root, and is uid {uid} now: the next generation cannot bind the same address"
            ),
            FIX,
        )),
        _ if keeps_root => Some(Finding::problem(
            SUBJECT,
            "ExecStart=! starts the program as root, which then drops root itself: the next generation cannot bind the \
             same address",
            format!("remove the exclamation mark; {FIX}"),
        )),
        _ if unit.is_root() && unit.serving.is_none() => Some(Finding::note(
            SUBJECT,
            "the program is started as root: if it drops root, the next generation cannot bind the same address",
            FIX,
        )),
        _ => None,
    }
}

fn network(unit: &Unit) -> Option<Finding> {
    unit.is_elsewhere().then(|| {
        let what = "the unit has a network namespace of its own (PrivateNetwork=, NetworkNamespacePath=): addresses \
                    and kernel settings are not those that are shown here";
        Finding::note("network", what, "run cutover doctor --listen in that namespace, by nsenter --net")
    })
}

fn families(unit: &Unit) -> Finding {
    const SUBJECT: &str = "RestrictAddressFamilies";
    let missing = missing_families(unit);
    let fix = "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK";
    let why = |family: &str| match family {
        "AF_UNIX" => "the server cannot talk to systemd, the next generation and cutover reload",
        "AF_NETLINK" => "listeners and handshakes in flight cannot be seen: nothing is steered",
        _ => "the server cannot listen",
    };
    if missing.is_empty() {
        return Finding::ok(SUBJECT, "lets through what a rollout needs");
    }
    let reasons: Vec<String> = missing.iter().map(|family| format!("without {family} {}", why(family))).collect();
    Finding::problem(SUBJECT, reasons.join("; "), fix)
}

fn missing_families(unit: &Unit) -> Vec<&'static str> {
    let Some(shown) = unit.shown.shown("RestrictAddressFamilies") else { return Vec::new() };
    let list = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
    let (listed, allows) = match shown.strip_prefix('~') {
        Some(denied) => (list(denied), false),
        None => (list(shown), true),
    };
    let listens = |v4: bool| unit.addresses.is_empty() || unit.addresses.iter().any(|a| a.is_ipv4() == v4);
    let mut wanted = vec!["AF_UNIX", "AF_NETLINK"];
    wanted.extend(listens(true).then_some("AF_INET"));
    // If the addresses are not known, only IPv4 is required.
    wanted.extend((listens(false) && !unit.addresses.is_empty()).then_some("AF_INET6"));
    wanted.retain(|family| listed.contains(*family) != allows);
    wanted
}
