//! A canary gives the next generation a share of the new connections; existing connections stay where they are.

use std::time::Duration;

use cutover::Phase;

use crate::support::control::Panel;
use crate::support::load::{Load, Mode, Plan, Report};
use crate::support::process::{Instance, Start};

const SOON: Duration = Duration::from_secs(20);
/// Time limit for thousands of connections, on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn load(server: &Instance, mode: Mode) -> Load {
    let pause = Duration::from_millis(10);
    let load = Plan { pause, ..Plan::new([server.addr()], 16, mode) }.start();
    load.wait_answered(100, SOON);
    load
}

/// Makes at least this many connections now, and returns the report about them.
fn connections(server: &Instance, count: u64) -> Report {
    let load = Plan::new([server.addr()], 16, Mode::Close).start();
    load.wait_answered(count, LONG);
    let report = load.stop();
    report.assert_nothing_lost();
    report
}

#[track_caller]
fn is_about(report: &Report, generation: u64, percent: std::ops::RangeInclusive<f64>) {
    let share = report.percent_of(generation);
    println!("generation {generation} answered {share:.2} % of {} connections", report.connections);
    assert!(percent.contains(&share), "{share} % of {:?} is not in {percent:?}", report.answered_by);
}

#[test]
fn the_share_is_what_was_asked_for_and_promotion_makes_it_all() {
    for (listeners, count, about) in [("1", 5000, 3.0..=7.0), ("3", 2000, 2.0..=8.0)] {
        let server = Start::serve().args(["--canary", "5%:1h,50%:1h", "--listeners-per-address", listeners]).ready();
        let panel = Panel::of(&server);
        let others = load(&server, Mode::Close);
        let mut reload = panel.reload();
        reload.reaches_canary(5.0);
        is_about(&connections(&server, count), 2, about);
        panel.promote();
        assert_eq!(reload.done(), 2);
        is_about(&connections(&server, 500), 2, 100.0..=100.0);
        others.stop().assert_nothing_lost();
    }
}

/// Each step ends by itself, and the next one follows: 5 %, 50 %, all.
#[test]
fn steps_lead_on_by_themselves() {
    let server = Start::serve().args(["--canary", "5%:200ms,50%:2s"]).ready();
    let panel = Panel::of(&server);
    let others = load(&server, Mode::Close);
    let mut reload = panel.reload();
    reload.reaches_canary(5.0);
    reload.reaches_canary(50.0);
    let rollout = panel.status().rollout.expect("a rollout");
    assert_eq!((rollout.phase, rollout.share.as_percent()), (Phase::Canary, 50.0));
    assert_eq!(reload.done(), 2);
    is_about(&connections(&server, 500), 2, 100.0..=100.0);
    others.stop().assert_nothing_lost();
}

#[test]
fn every_address_has_the_share() {
    let server = Start::serve().listen("127.0.0.1:0").listen("[::]:0").args(["--canary", "50%:1h"]).ready();
    let panel = Panel::of(&server);
    let dual = server.addrs()[1].port();
    let hosts = ["127.0.0.1", "[::1]"].map(|host| format!("{host}:{dual}").parse().expect("an address"));
    let mut reload = panel.reload();
    reload.reaches_canary(50.0);
    for target in [server.addr(), hosts[0], hosts[1]] {
        let load = Plan::new([target], 16, Mode::Close).start();
        load.wait_answered(500, SOON);
        let report = load.stop();
        report.assert_nothing_lost();
        is_about(&report, 2, 38.0..=62.0);
    }
    panel.promote();
    assert_eq!(reload.done(), 2);
}

/// Existing connections stay, in the canary and in the soak. The roles stay as well: main process, PID file and control
/// socket are blue's until blue retires.
#[test]
fn who_is_connected_stays_and_so_does_the_office() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pid");
    let named = || std::fs::read_to_string(&file).expect("a PID file").trim().parse::<u32>().expect("a pid");
    let server = Start::serve().args(["--canary", "50%:1h", "--soak", "1h", "--pid-file"]).arg(&file).ready();
    let (panel, blue) = (Panel::of(&server), server.main_pid());
    let stay = load(&server, Mode::KeepAlive);
    let others = load(&server, Mode::Close);
    let mut reload = panel.reload();
    let is_held_by_blue = || {
        assert_eq!((server.main_pid(), named()), (blue, blue));
        assert_eq!(panel.status().generations.iter().map(|g| g.generation.number()).max(), Some(2));
        let ready = server.notifications().into_iter().filter(|n| n.value("READY").is_some()).map(|n| n.pid);
        assert!(ready.into_iter().all(|pid| pid == blue), "green has spoken to the service manager");
    };
    reload.reaches_canary(50.0);
    others.wait_generation(2, SOON);
    stay.wait_answered(500, SOON);
    is_held_by_blue();
    panel.promote();
    reload.reaches_soak();
    stay.wait_answered(500, SOON);
    is_held_by_blue();
    assert_eq!(stay.failed_so_far(), 0);
    assert_eq!(Vec::from_iter(stay.generations()), [1], "a connection was moved");
    let green = panel.pid_of(2);
    panel.promote();
    assert_eq!(reload.done(), 2);
    server.wait_notification(&format!("MAINPID={green}"), SOON);
    assert_eq!((server.main_pid(), named()), (green, green));
    server.wait_notification("generation 2 serves", SOON);
    stay.wait_generation(2, SOON);
    for load in [stay, others] {
        load.stop().assert_nothing_lost();
    }
    server.wait_gone(blue, SOON);
}

/// A canary of 100 % can be rolled back as any other.
#[test]
fn a_canary_of_all() {
    let server = Start::serve().args(["--canary", "100%:1h"]).ready();
    let panel = Panel::of(&server);
    let mut reload = panel.reload();
    reload.reaches_canary(100.0);
    is_about(&connections(&server, 500), 2, 100.0..=100.0);
    panel.rollback();
    reload.rolled_back();
    is_about(&connections(&server, 500), 1, 100.0..=100.0);
}
