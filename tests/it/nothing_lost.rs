//! The main promise: under full load, reload after reload, not one request fails. And its negative control.

use std::time::Duration;

use crate::support::load::{Load, Mode, Plan, Report};
use crate::support::process::{Instance, Start};

const RELOADS: u64 = 50;
const CLIENTS: usize = 64;

/// Reloads under load, each time when the clients have seen the last generation.
fn reload_under_load(server: &Instance, load: &Load, reloads: u64) {
    for reload in 1..=reloads {
        server.reload();
        load.wait_generation(reload + 1, Duration::from_secs(20));
    }
}

fn run(server: &Instance, mode: Mode, reloads: u64) -> Report {
    let load = Plan::new(server.addrs(), CLIENTS, mode).start();
    load.wait_answered(1000, Duration::from_secs(20));
    reload_under_load(server, &load, reloads);
    let report = load.stop();
    println!("{report}");
    report
}

fn nothing_is_lost(start: Start, mode: Mode) {
    let server = start.ready();
    let report = run(&server, mode, RELOADS);
    report.assert_nothing_lost();
    assert!(report.generations.len() as u64 > RELOADS, "the clients saw only {} generations", report.generations.len());
}

#[test]
fn close() {
    nothing_is_lost(Start::serve(), Mode::Close);
}

#[test]
fn keep_alive() {
    nothing_is_lost(Start::serve(), Mode::KeepAlive);
}

#[test]
fn close_with_three_listeners() {
    nothing_is_lost(Start::serve().args(["--listeners-per-address", "3"]), Mode::Close);
}

#[test]
fn keep_alive_with_three_listeners() {
    nothing_is_lost(Start::serve().args(["--listeners-per-address", "3"]), Mode::KeepAlive);
}

#[test]
fn close_over_ipv6() {
    nothing_is_lost(Start::serve().listen("[::1]:0"), Mode::Close);
}

#[test]
fn keep_alive_over_ipv6() {
    nothing_is_lost(Start::serve().listen("[::1]:0"), Mode::KeepAlive);
}

/// Without steering, without time for what is on its way: the restart that everybody knows. If the load does not see
/// this one lose, it would see nothing.
#[test]
fn a_plain_restart_loses_and_the_load_sees_it() {
    for mode in [Mode::Close, Mode::KeepAlive] {
        let plain = Start::serve().env("CUTOVER_STEERING", "off").args(["--linger", "0s", "--idle-grace", "0s"]);
        let server = plain.ready();
        let report = run(&server, mode, RELOADS);
        assert!(report.failures.total() > 0, "a plain restart lost nothing: {report}");
    }
}
