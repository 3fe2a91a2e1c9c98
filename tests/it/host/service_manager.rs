//! Notifications to the service manager: that the main process is alive, its status, and that it needs more time.

use std::time::{Duration, Instant};

use crate::support::deployed::{Deployed, GREEN};
use crate::support::process::{Instance, Notification, Start};

const SOON: Duration = Duration::from_secs(10);

/// The times at which the process that was the main one sent `WATCHDOG=1`.
fn pings(server: &Instance) -> Vec<Instant> {
    let mut main = server.first_pid();
    let mut pings = Vec::new();
    for Notification { pid, at, text } in server.notifications() {
        if pid == main && text.lines().any(|line| line == "WATCHDOG=1") {
            pings.push(at);
        }
        let named = text.lines().find_map(|line| line.strip_prefix("MAINPID=")?.parse().ok());
        main = named.filter(|_| pid == main).unwrap_or(main);
    }
    pings
}

/// The manager restarts a service whose main process is silent for the watchdog's time. Over all reloads, the current
/// main process must send its heartbeat in time.
#[test]
fn the_watchdog_hears_from_the_right_process_through_every_handover() {
    const LIMIT: Duration = Duration::from_secs(1);
    let server = Start::serve().env("WATCHDOG_USEC", LIMIT.as_micros().to_string()).ready();
    for _ in 0..5 {
        let before = pings(&server).len();
        server.reload();
        // Each generation is the main process for three heartbeats.
        while pings(&server).len() < before + 3 {
            server.wait_notification_after(server.notifications().len(), "WATCHDOG=1", SOON);
        }
    }
    let pings = pings(&server);
    let longest = pings.windows(2).map(|pair| pair[1] - pair[0]).max().expect("some");
    assert!(longest < LIMIT, "{longest:?} without a word from the main process");
    assert!(pings.len() >= 15);
}

#[test]
fn a_watchdog_of_another_process_is_not_answered() {
    let server = Start::serve().env("WATCHDOG_USEC", "300000").env("WATCHDOG_PID", "1").ready();
    server.reload();
    server.wait_notification("generation 2 serves", SOON);
    let of_the_first = |n: &Notification| n.pid == server.first_pid() && n.value("WATCHDOG").is_some();
    assert!(!server.notifications().iter().any(of_the_first));
}

#[test]
fn a_rollout_says_where_it_is_and_asks_for_more_time() {
    let deployed = Deployed::new();
    let server = deployed.start("hang").args(["--ready-timeout", "1h"]).env("WATCHDOG_USEC", "300000").ready();
    server.wait_notification("STATUS=generation 1 serves: 0 connections", SOON);
    deployed.put(GREEN);
    server.hup();
    server.wait_notification("STATUS=generation 1 serves: 0 connections; generation 2: starting", SOON);
    server.wait_notification("EXTEND_TIMEOUT_USEC=20000000", SOON);
    let green = server.wait_log(" spawned generation=2 ", SOON);
    let pid = green.split("pid=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a pid");
    server.signal(pid.parse().expect("a number"), rustix::process::Signal::KILL);
    server.wait_notification("serves: 0 connections; generation 2 failed: was killed by SIGKILL (9)", SOON);
    // A generation that serves again needs no more time: after its next heartbeat, no extension is requested any more.
    let so_far = server.notifications().len();
    server.wait_notification_after(so_far, "WATCHDOG=1", SOON);
    let mark = server.notifications().len();
    server.wait_notification_after(mark, "WATCHDOG=1", SOON);
    assert!(!server.notifications()[mark..].iter().any(|n| n.value("EXTEND_TIMEOUT_USEC").is_some()));
}
