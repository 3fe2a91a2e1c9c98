//! A sandbox refuses a system call that steering needs: the server logs that once, works on, and loses as little as
//! possible.

use std::time::Duration;

use crate::support::control::Panel;
use crate::support::load::{Mode, Plan};
use crate::support::process::{Instance, Start};
use crate::support::seccomp::Refused;

const SOON: Duration = Duration::from_secs(20);
const ATTACH_PROGRAM: Refused = Refused::SocketOption(libc::SO_ATTACH_REUSEPORT_CBPF);
const ATTACH_FILTER: Refused = Refused::SocketOption(libc::SO_ATTACH_FILTER);

/// Five reloads under load, in which no request is lost.
fn nothing_is_lost(start: Start) -> Instance {
    let server = start.ready();
    let load = Plan::new([server.addr()], 16, Mode::Close).start();
    load.wait_answered(100, SOON);
    for generation in 2..=6 {
        server.reload();
        load.wait_generation(generation, SOON);
    }
    let report = load.stop();
    report.assert_nothing_lost();
    server
}

fn says_once(server: &Instance, generation: u32, words: &[&str]) {
    let line = server.wait_log("not steered, going on without steering", SOON);
    for word in words {
        assert!(line.contains(word), "`{word}` is not in: {line}");
    }
    server.wait_log(&format!("generation {generation} is live"), SOON);
    let said = server.count_log("not steered, going on without steering");
    assert!(said <= generation as usize, "{said} times by {generation} generations");
}

#[test]
fn steering_turned_off() {
    let server = nothing_is_lost(Start::serve().env("CUTOVER_STEERING", "off"));
    says_once(&server, 6, &["steering is turned off", "best effort"]);
}

/// A probe, a canary and a soak are impossible without steering: the reload is refused, rather than done without them.
/// The server serves all the same.
#[test]
fn what_cannot_be_done_without_steering_is_not_done() {
    for options in [["--probe", "/"], ["--canary", "5%:1h"], ["--soak", "1h"]] {
        let server = Start::serve().env("CUTOVER_STEERING", "off").args(options).ready();
        let panel = Panel::of(&server);
        let load = Plan::new([server.addr()], 16, Mode::Close).start();
        load.wait_answered(100, SOON);
        panel.reload().rolled_back_because(&[
            "was not started, because its probe, canary or soak need steering",
            &format!("{} is not steered: steering is turned off by CUTOVER_STEERING", server.addr()),
        ]);
        server.wait_log("generation 1 serves on", SOON);
        assert_eq!(server.pids(), [server.first_pid()]);
        load.wait_answered(100, SOON);
        let report = load.stop();
        report.assert_nothing_lost();
        assert_eq!(Vec::from_iter(&report.generations), [&1]);
    }
}

#[test]
fn steering_refused() {
    let server = nothing_is_lost(Start::serve().refused(ATTACH_PROGRAM));
    says_once(&server, 6, &["SO_ATTACH_REUSEPORT_CBPF", "not permitted"]);
}

#[test]
fn steering_refused_with_three_listeners() {
    nothing_is_lost(Start::serve().args(["--listeners-per-address", "3"]).refused(ATTACH_PROGRAM));
}

/// Only the best effort is left: the reload works, and the log says what was not possible.
#[test]
fn steering_and_filters_refused() {
    let server = Start::serve().refused(ATTACH_PROGRAM).refused(ATTACH_FILTER).ready();
    server.reload();
    server.wait_log("new handshakes cannot be ignored, closing when none is in flight", SOON);
    server.wait_gone(server.first_pid(), SOON);
}

/// The kernel does not report when lookups by the old program have ended: the server waits for the longest possible
/// lookup.
#[test]
fn membarrier_refused() {
    let server = nothing_is_lost(Start::serve().refused(Refused::Membarrier));
    assert!(!server.log_contains("not steered"), "{}", server.log());
}

/// As under RestrictAddressFamilies= without AF_NETLINK.
#[test]
fn netlink_refused() {
    let server = Start::serve().refused(Refused::Family(libc::AF_NETLINK)).ready();
    server.reload();
    server.wait_log("reload done: generation 2 is live", SOON);
    server.wait_gone(server.first_pid(), SOON);
    says_once(&server, 2, &["open a sock_diag socket"]);
}
