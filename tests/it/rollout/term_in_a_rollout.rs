//! SIGTERM in a rollout ends both generations, and neither cuts its connections; no process is left behind.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use cutover::Share;

use crate::support::app::{App, HOUR, Options};
use crate::support::control::Panel;
use crate::support::process::{Instance, Start};
use crate::support::slow::Slow;

const SOON: Duration = Duration::from_secs(20);

/// Asserts that no process lives, and that connections are refused.
#[track_caller]
fn is_over(server: &Instance) {
    for pid in server.pids() {
        server.wait_gone(pid, SOON);
    }
    assert_eq!(server.pids(), Vec::<u32>::new());
    let answer = TcpStream::connect(server.addr()).map(drop).map_err(|error| error.kind());
    assert_eq!(answer, Err(std::io::ErrorKind::ConnectionRefused));
}

fn both_finish_what_they_have(options: Options, generations: &[u32]) {
    let app = App::new(options);
    let server = app.start();
    let panel = Panel::of(&server);
    let mut slow = Slow::begin_on(server.addr(), &[1]);
    let mut reload = panel.reload();
    match app.options.canary.is_empty() {
        true => reload.reaches_soak(),
        false => reload.reaches_canary(50.0),
    }
    slow.extend(Slow::begin_on(server.addr(), generations));
    let green = panel.pid_of(2);
    server.signal(server.first_pid(), Signal::TERM);
    reload.rolled_back_because(&["was given up: a stop was asked for"]);
    server.wait_log("; generation 1 stops", SOON);
    server.wait_log("draining generation=1", SOON);
    server.wait_log("draining generation=2", SOON);
    assert_eq!(server.pids().len(), 2, "one has not waited for its answers: {}", server.log());
    app.slow_ones_end();
    slow.into_iter().for_each(Slow::finish);
    assert!(server.wait_exit(SOON).success());
    is_over(&server);
    server.wait_log(&format!("gone generation=2 pid={green} connections=0"), SOON);
    server.wait_log(&format!("gone generation=1 pid={} connections=0", server.first_pid()), SOON);
}

#[test]
fn in_the_canary() {
    both_finish_what_they_have(Options { canary: vec![(Share::percent(50), HOUR)], ..Options::default() }, &[1, 2]);
}

#[test]
fn in_the_soak() {
    both_finish_what_they_have(Options { soak: HOUR, ..Options::default() }, &[2]);
}

/// Two SIGTERM while green is being spawned: every process that exists by then is ended.
#[test]
fn twice_while_green_is_spawned() {
    let (mut at_once, mut spawned, mut late) = (0, 0, 0);
    let delays = [0, 50, 100, 150, 200, 300, 400, 500, 700, 1000, 1500, 2000, 3000, 5000];
    // The delay begins at the SIGHUP, or at the log line which says that green is being spawned.
    let from = ["", "to=starting"];
    for (delay, from) in delays.iter().flat_map(|delay| from.map(|from| (*delay, from))) {
        let server = Start::serve().ready();
        server.addr();
        let (blue, mark) = (server.first_pid(), server.mark());
        server.signal(blue, Signal::HUP);
        if !from.is_empty() {
            server.wait_log_after(mark, from, SOON);
        }
        spin(delay);
        server.signal(blue, Signal::TERM);
        // Two pending SIGTERM count as one: the server has taken the first when this line is logged (rolling back, or
        // retiring).
        server.wait_log_after(mark, "to=r", SOON);
        server.signal(blue, Signal::TERM);
        assert!(server.wait_exit(SOON).success());
        server.wait_log("gone generation=1", SOON);
        if server.log_contains("reload done") {
            // The SIGTERM was too late, or the machine was slow: green is live, and a stop of blue does not affect
            // green.
            late += 1;
            server.pids().into_iter().for_each(|green| server.signal(green, Signal::TERM));
        }
        is_over(&server);
        at_once += server.count_log("a stop at once was asked for");
        spawned += server.count_log(" spawned generation=2 ");
    }
    println!(
        "{} times: green was spawned in {spawned}, live in {late}, and the stop was one at once in {at_once}",
        2 * delays.len()
    );
}

/// The moment of the signal is what the test varies, so there is no event to wait for.
fn spin(microseconds: u64) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_micros(microseconds) {
        std::hint::spin_loop();
    }
}
