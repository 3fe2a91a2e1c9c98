//! `cutover reload --drain` waits until the old generation is gone, and reports how many connections are left.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::process::{Instance, Start};
use crate::support::status::{is_serving, status, wait_status};
use crate::support::verb::{Running, Verb};
use crate::support::{kept_alive, wait_connections};

const SOON: Duration = Duration::from_secs(10);

fn patient() -> Instance {
    Start::serve().args(["--idle-grace", "1h", "--drain-timeout", "1h"]).ready()
}

fn begin(server: &Instance) -> Running {
    let reload = Verb::of("reload", server).args(["--drain"]).begin();
    reload.wait_out("generation 2 is live (pid ");
    reload
}

#[test]
fn it_waits_for_the_last_connection() {
    let server = patient();
    let [one, two] = [(); 2].map(|()| kept_alive(server.addr()));
    let mut reload = begin(&server);
    reload.wait_out("draining 2 connections\n");
    drop(one);
    wait_status(&server, "one connection", |status| status.generations[1].connections == Some(1));
    assert!(reload.is_running(), "it has a connection left");
    drop(two);
    let ended = reload.end().with(0);
    // The old process must be gone at this very moment.
    assert!(!server.pids().contains(&server.first_pid()), "it is still there: {ended:?}");
    assert!(ended.out.ends_with(&format!("the old process (pid {}) is gone\n", server.first_pid())), "{ended:?}");
    assert_eq!(ended.err, "");
    is_serving(&status(&server), 2);
}

#[test]
fn without_a_connection_it_says_the_same_each_time() {
    let server = Start::serve().ready();
    for generation in 2..=5 {
        let old = server.main_pid();
        let ended = Verb::of("reload", &server).args(["--drain"]).run().with(0);
        assert!(!server.pids().contains(&old), "{ended:?}");
        let lines: Vec<&str> = ended.out.lines().collect();
        assert_eq!(lines[..2], [format!("starting generation {generation}"), "cut over".into()]);
        assert!(lines[2].starts_with(&format!("generation {generation} is live (pid ")), "{ended:?}");
        assert_eq!(lines[3..], [format!("the old process (pid {old}) is gone")]);
    }
}

/// Negative control of the tests above: without `--drain` the verb does not wait.
#[test]
fn without_drain_it_does_not_wait() {
    let server = patient();
    let _held = kept_alive(server.addr());
    Verb::of("reload", &server).run().with(0);
    assert!(server.pids().contains(&server.first_pid()));
}

#[test]
fn what_is_left_at_the_drain_timeout_is_not_waited_for_longer() {
    let server = Start::serve().args(["--idle-grace", "1h", "--drain-timeout", "500ms"]).ready();
    let _held = kept_alive(server.addr());
    let ended = begin(&server).end().with(0);
    assert!(ended.out.contains("draining 1 connection\n"), "{ended:?}");
    assert!(!server.pids().contains(&server.first_pid()));
}

/// The reload is done, and the old process is gone, which is the event that the verb waits for.
#[test]
fn the_old_process_is_killed_while_it_drains() {
    let server = patient();
    let _held = kept_alive(server.addr());
    let reload = begin(&server);
    reload.wait_out("draining 1 connection\n");
    server.signal(server.first_pid(), Signal::KILL);
    let ended = reload.end().with(0);
    assert!(ended.out.ends_with("is gone\n"), "{ended:?}");
    server.wait_gone(server.first_pid(), SOON);
}

#[test]
fn with_a_timeout_the_drain_is_not_cut_short() {
    let server = patient();
    let held = kept_alive(server.addr());
    wait_connections(&server, 1);
    let mut reload = Verb::of("reload", &server).args(["--drain", "--timeout", "1s"]).begin();
    reload.wait_out("draining 1 connection\n");
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(1_500) {
        is_serving(&status(&server), 2);
    }
    assert!(reload.is_running());
    drop(held);
    let ended = reload.end().with(0);
    assert_eq!(ended.err, "");
}
