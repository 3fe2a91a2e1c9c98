//! The operator's own check before each reload: a reload happens only if the check passes.

use std::time::{Duration, Instant};

use crate::support::programs::Port;
use crate::support::run::{Run, Running};
use crate::support::script::Script;

const SOON: Duration = Duration::from_secs(20);

fn with(check: &str, args: &[&str]) -> (Port, Script, Running) {
    let (port, script) = (Port::free(), Script::server());
    let run = Run::at(port.address, script.at(port.address)).args(["--preflight", check]).args(args).ready();
    (port, script, run)
}

#[track_caller]
fn refuses(run: &Running, word: &str) {
    let first = run.live();
    let line = run.reload_fails();
    assert!(line.contains(word) && line.contains("; generation 1 serves on"), "`{word}` is not in: {line}");
    assert_eq!(run.count_log(" spawned "), 1);
    run.wait_until("nothing of it is left", || run.members() == [first].into());
}

#[test]
fn one_that_agrees() {
    let (_port, _script, run) = with("sh -c 'echo \"asked by $CUTOVER_RUN for $0\"' \"the config\"", &[]);
    run.reload_to(2);
    assert_eq!(run.count_log("for the config"), 1, "{}", run.log());
    run.reload_to(3);
    assert_eq!(run.count_log("for the config"), 2, "{}", run.log());
}

#[test]
fn one_that_refuses() {
    let (_port, _script, run) = with("sh -c 'echo the config is wrong >&2; exit 7'", &[]);
    refuses(&run, "generation 2 was refused by the preflight check: sh exited with status 7");
    run.wait_log("the config is wrong", SOON);
}

#[test]
fn one_that_is_killed() {
    let (_port, _script, run) = with("sh -c 'kill -SEGV $$'", &[]);
    refuses(&run, "generation 2 was refused by the preflight check: sh was killed by SIGSEGV (11)");
}

#[test]
fn one_that_is_missing() {
    let (_port, _script, run) = with("no-such-check -t", &[]);
    refuses(
        &run,
        "generation 2 was not started: its preflight check cannot be run: the executable no-such-check is not in PATH",
    );
}

/// The check is killed with all processes that it has started.
#[test]
fn one_that_hangs_is_killed_in_time() {
    let (_port, _script, run) = with("sh -c 'sleep 601; :'", &["--ready-timeout", "1s"]);
    let began = Instant::now();
    refuses(&run, "generation 2 was not started: its preflight");
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// The check ends with the supervisor that waits for it.
#[test]
fn one_that_hangs_does_not_hold_up_the_end() {
    let (_port, _script, run) = with("sh -c 'echo begun; sleep 602; :'", &[]);
    run.hup();
    run.wait_log("begun", SOON);
    run.signal(run.first_pid(), rustix::process::Signal::TERM);
    run.wait_log("generation 2 was given up: a stop was asked for", SOON);
    assert_eq!(run.wait_exit(SOON).code(), Some(0));
    assert_eq!(run.members(), [].into());
}
