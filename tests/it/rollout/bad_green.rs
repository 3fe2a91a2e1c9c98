//! A bad next generation is ended, with a clear reason in the log; the old generation serves on, and no request is
//! lost.

use std::fs;
use std::time::Duration;

use crate::support::deployed::{GARBAGE, GREEN, PLAIN, Trial};

/// A next generation that plays `part` fails with these words in the log.
fn bad(part: &str, options: &[&str], words: &[&str]) {
    let trial = Trial::begin(part, options);
    trial.deployed.put(GREEN);
    trial.fails_with(words);
    trial.recovers();
}

#[test]
fn deleted() {
    let trial = Trial::begin("", &[]);
    trial.deployed.remove();
    let path = trial.deployed.program();
    trial.fails_with(&["generation 2", "cannot be found", path.to_str().expect("text"), "generation 1 serves on"]);
    trial.recovers();
}

#[test]
fn not_executable() {
    let trial = Trial::begin("", &[]);
    trial.deployed.put(PLAIN);
    trial.fails_with(&["is not executable"]);
    trial.recovers();
}

#[test]
fn not_a_program() {
    let trial = Trial::begin("", &[]);
    trial.deployed.put(GARBAGE);
    trial.fails_with(&["cannot be spawned", "Exec format error"]);
    trial.recovers();
}

#[test]
fn a_folder() {
    let trial = Trial::begin("", &[]);
    trial.deployed.remove();
    fs::create_dir(trial.deployed.program()).expect("a folder");
    trial.fails_with(&["is not a file"]);
    fs::remove_dir(trial.deployed.program()).expect("removed");
    trial.recovers();
}

#[test]
fn exits_at_once() {
    bad("exit-1", &[], &["exited with status 1 before it was ready"]);
}

#[test]
fn crashes() {
    bad("crash", &[], &["was killed by SIGSEGV (11) before it was ready"]);
}

#[test]
fn hangs() {
    bad("hang", &["--ready-timeout", "300ms"], &["did not become ready in 300ms"]);
}

#[test]
fn says_ready_and_does_not_listen() {
    bad("ready-deaf", &[], &["does not listen on 127.0.0.1:"]);
}

#[test]
fn listens_on_another_port() {
    bad("ready-elsewhere", &[], &["does not listen on 127.0.0.1:"]);
}

#[test]
fn says_why_it_cannot_start() {
    bad("errno", &[], &["could not start", "Address already in use"]);
}

#[test]
fn ready_from_a_foreign_process_does_not_count() {
    let trial = Trial::begin("ready-by-a-stranger", &["--ready-timeout", "2s"]);
    trial.deployed.put(GREEN);
    trial.fails_with(&["did not become ready in 2s"]);
    trial.server.wait_log(
        "ignoring notifications that do not come from the next generation's own process",
        Duration::from_secs(1),
    );
    trial.recovers();
}

#[test]
fn malformed_and_huge_datagrams_change_nothing() {
    let trial = Trial::begin("malformed", &["--ready-timeout", "2s"]);
    trial.deployed.put(GREEN);
    trial.fails_with(&["did not become ready in 2s"]);
    for reason in ["it has no KEY=VALUE line", "it is not UTF-8", "it is longer than 4096 bytes"] {
        trial.server.wait_log(reason, Duration::from_secs(1));
    }
    trial.recovers();
}

#[test]
fn a_thousand_datagrams_a_second_do_not_stop_a_good_one() {
    let trial = Trial::begin("flooded", &[]);
    trial.deployed.put(GREEN);
    let blue = trial.server.main_pid();
    trial.server.reload();
    trial.server.wait_log(
        "ignoring notifications that do not come from the next generation's own process",
        Duration::from_secs(5),
    );
    trial.server.wait_gone(blue, Duration::from_secs(10));
    trial.ends_well();
}

/// Only stdin, stdout and stderr are handed over: a green that lists its descriptors at exec time finds those, and the
/// descriptor from which the shell reads the script.
#[test]
fn a_fresh_green_has_three_descriptors() {
    let trial = Trial::begin("look", &[]);
    trial.deployed.put(GREEN);
    trial.server.reload();
    let listing = fs::read_to_string(trial.deployed.out()).expect("green has looked");
    let open: Vec<&str> = listing.lines().filter(|line| line.contains(" -> ")).collect();
    let (own, others): (Vec<&str>, Vec<&str>) = open.iter().partition(|line| line.contains("green.sh"));
    let numbers: Vec<&str> =
        others.iter().filter_map(|line| line.split(" -> ").next()?.split_whitespace().last()).collect();
    // dash reads the script from descriptor 10; the redirection of `ls` is made in the child, and is not listed.
    assert!(own.len() <= 1, "{listing}");
    assert_eq!(numbers, ["0", "1", "2"], "{listing}");
    trial.ends_well();
}
