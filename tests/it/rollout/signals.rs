//! Signals and deaths at the wrong time: no request is lost, except those that the kernel itself drops.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::deployed::{Deployed, GREEN, Trial};
use crate::support::load::{Mode, Plan};
use crate::support::process::{Instance, Start};
use crate::support::{http_get, wait_connections};

const SOON: Duration = Duration::from_secs(10);

fn pid_of_spawned(server: &Instance) -> u32 {
    let line = server.wait_log(" spawned generation=2 ", SOON);
    let pid = line.split("pid=").nth(1).and_then(|rest| rest.split_whitespace().next());
    pid.and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("no pid in: {line}"))
}

#[test]
fn twenty_hups_at_once_are_at_least_one_reload_and_nothing_is_lost() {
    let trial = Trial::begin("", &[]);
    let first = trial.server.main_pid();
    for _ in 0..20 {
        trial.server.signal(first, Signal::HUP);
    }
    trial.server.wait_gone(first, SOON);
    trial.ends_well();
}

#[test]
fn a_hup_in_a_rollout_is_refused_and_said() {
    let trial = Trial::begin("hang", &["--ready-timeout", "1s"]);
    trial.deployed.put(GREEN);
    trial.server.hup();
    pid_of_spawned(&trial.server);
    trial.server.hup();
    trial.server.wait_log("the rollout of generation 2 is under way in generation 1", SOON);
    trial.server.wait_log("did not become ready", SOON);
    trial.recovers();
}

/// The first generation may get SIGHUP at any time if its parent has started it with SIGHUP blocked, as a generation
/// does with the next one: the signal stays pending until it can be handled, and then causes a reload.
#[test]
fn a_hup_in_the_first_millisecond_is_a_reload() {
    for delay in [0, 100, 300, 600, 1000].map(Duration::from_micros) {
        let server = Start::serve().hup_blocked().spawn();
        let first = server.first_pid();
        let began = std::time::Instant::now();
        while began.elapsed() < delay {
            std::hint::spin_loop();
        }
        server.signal(first, Signal::HUP);
        server.wait_log("reload done: generation 2 is live", SOON);
        server.wait_gone(first, SOON);
        assert!(http_get(server.addr(), "/").expect("an answer").contains("generation 2"));
    }
}

/// A SIGHUP to the whole process group reaches green before green can handle one. The signal does not kill green.
#[test]
fn a_hup_in_the_first_millisecond_of_green_does_not_kill_it() {
    let trial = Trial::begin("", &[]);
    for generation in 2..=10 {
        let blue = trial.server.main_pid();
        trial.server.hup();
        // Green gets a SIGHUP as soon as a second process with SIGHUP blocked exists, which is so from just before exec
        // on.
        let listening = format!("listening generation={} ", 2 * generation - 2);
        let by = Instant::now() + SOON;
        let green = loop {
            assert!(Instant::now() < by, "no green of process {blue}: {}", trial.server.log());
            // On a busy machine green may be live, and blue gone, before the test looks for green.
            let has_begun = trial.server.log_contains(&listening);
            let mut others = trial.server.pids().into_iter().filter(|pid| *pid != blue);
            if let Some(green) = others.find(|pid| has_begun || is_child(*pid, blue) && blocks_hup(*pid)) {
                break green;
            }
        };
        trial.server.signal(green, Signal::HUP);
        trial.server.wait_log(&format!("generation {} is live", 2 * generation - 2), SOON);
        trial.server.wait_log(&format!("generation {} is live", 2 * generation - 1), SOON);
        trial.server.wait_notification(&format!("generation {} serves", 2 * generation - 1), SOON);
        trial.server.wait_gone(green, SOON);
    }
    trial.ends_well();
}

fn blocks_hup(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("SigBlk:") && line.ends_with('1')))
}

fn is_child(pid: u32, parent: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(") ").next().is_some_and(|rest| rest.split(' ').nth(1) == Some(&parent.to_string()))
    })
}

#[test]
fn a_term_in_a_rollout_ends_green_too() {
    let deployed = Deployed::new();
    let server = deployed.start("hang").ready();
    deployed.put(GREEN);
    server.hup();
    let green = pid_of_spawned(&server);
    server.signal(server.first_pid(), Signal::TERM);
    assert!(server.wait_exit(SOON).success());
    server.wait_gone(green, SOON);
    server.wait_log("was given up: a stop was asked for", SOON);
    assert_eq!(server.pids(), Vec::<u32>::new());
}

#[test]
fn a_term_finishes_the_requests_under_way_and_a_second_one_does_not_wait() {
    for (signals, at_once) in [(1, false), (2, true)] {
        let server = Start::serve().args(["--drain-timeout", "1h"]).ready();
        // A request whose header is incomplete: the connection is in use.
        let mut client = std::net::TcpStream::connect(server.addr()).expect("connected");
        std::io::Write::write_all(&mut client, b"GET / HTTP/1.1\r\nHost: x\r\n").expect("sent");
        wait_connections(&server, 1);
        for nth in 0..signals {
            server.signal(server.first_pid(), Signal::TERM);
            if nth == 0 {
                server.wait_log("draining generation=1 connections=1", SOON);
            }
        }
        if !at_once {
            std::io::Write::write_all(&mut client, b"\r\n").expect("sent");
            let mut answer = String::new();
            std::io::Read::read_to_string(&mut client, &mut answer).expect("answered");
            assert!(answer.contains("generation 1") && answer.contains("connection: close"), "{answer}");
        }
        assert!(server.wait_exit(SOON).success());
    }
}

#[test]
fn usr1_logs_the_status_and_usr2_without_a_drain_does_nothing() {
    let server = Start::serve().ready();
    server.signal(server.first_pid(), Signal::USR1);
    let line = server.wait_log(" status ", SOON);
    for word in ["generation=1", "phase=serving", "steering=steered", "connections=0"] {
        assert!(line.contains(word), "`{word}` is not in: {line}");
    }
    server.signal(server.first_pid(), Signal::USR2);
    assert!(http_get(server.addr(), "/").is_ok());
}

#[test]
fn green_killed_before_it_is_ready() {
    let trial = Trial::begin("hang", &[]);
    trial.deployed.put(GREEN);
    trial.server.hup();
    trial.server.signal(pid_of_spawned(&trial.server), Signal::KILL);
    trial.server.wait_log("was killed by SIGKILL (9) before it was ready; generation 1 serves on", SOON);
    trial.recovers();
}

/// Green listens, sends READY, and is dead before users are steered to green: blue is frozen until then.
#[test]
fn green_killed_as_soon_as_it_is_ready() {
    let trial = Trial::begin("ready-and-dead", &[]);
    trial.deployed.put(GREEN);
    let (blue, mark) = (trial.server.main_pid(), trial.server.mark());
    trial.server.hup();
    let green = pid_of_spawned(&trial.server);
    trial.server.freeze(blue);
    std::fs::write(trial.deployed.out(), "go").expect("green may go on");
    trial.server.wait_gone(green, SOON);
    trial.server.signal(blue, Signal::CONT);
    let line = trial.server.wait_log_after(mark, "reload failed", SOON);
    assert!(line.contains("generation 1 serves on"), "{line}");
    trial.recovers();
}

#[test]
fn blue_killed_while_green_starts() {
    let deployed = Deployed::new();
    let server = deployed.start("slow").ready();
    let addr = server.addr();
    deployed.put(GREEN);
    server.hup();
    let green = pid_of_spawned(&server);
    server.signal(server.first_pid(), Signal::KILL);
    server.wait_gone(server.first_pid(), SOON);
    std::fs::write(deployed.out(), "go on").expect("green may go on");
    server.wait_log("live generation=2", SOON);
    assert_eq!(server.pids(), [green], "it goes on starting, and takes over");
    assert!(!server.log_contains("has joined the group"), "{}", server.log());
    assert!(http_get(addr, "/").expect("an answer").contains("generation 2"));
    // Green is a complete generation: a reload works.
    deployed.put_real();
    server.signal(green, Signal::HUP);
    server.wait_log("reload done: generation 3 is live", SOON);
    assert!(http_get(addr, "/").expect("an answer").contains("generation 3"));
}

#[test]
fn blue_killed_while_it_drains_takes_nothing_of_green_with_it() {
    let deployed = Deployed::new();
    let server = deployed.start("").args(["--listeners-per-address", "3"]).ready();
    let blue = server.first_pid();
    // An idle connection keeps blue draining.
    let _idle = std::net::TcpStream::connect(server.addr()).expect("connected");
    wait_connections(&server, 1);
    server.reload();
    server.wait_log("draining generation=1 connections=1", SOON);
    let load = Plan::new([server.addr()], 16, Mode::KeepAlive).start();
    load.wait_answered(100, SOON);
    server.signal(blue, Signal::KILL);
    server.wait_gone(blue, SOON);
    load.wait_answered(100, SOON);
    for _ in 0..3 {
        server.reload();
    }
    load.wait_generation(5, SOON);
    load.stop().assert_nothing_lost();
    assert!(!server.log_contains("has joined the group"), "{}", server.log());
}
