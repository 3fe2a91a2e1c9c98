//! The next generation has the attributes that the first one was started with, whatever the application or an
//! administrator changes in between.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::support::app::{App, Options};
use crate::support::attributes::{self, AT_START, Attributes, CHANGED, CHANGES};
use crate::support::http_get;
use crate::support::process::Start;
use crate::support::programs::Port;
use crate::support::run::{Run, wait_until};
use crate::support::script::Script;
use crate::support::seccomp::Refused;
use crate::support::skip;

const SOON: Duration = Duration::from_secs(10);
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip("only root can lower a nice value, and see the timer slack of another process");
    }
    is_root
}

/// The last processor of this test, and all of them, as taskset(1) and /proc/PID/status show them.
fn processors() -> (String, String) {
    let all = sched_getaffinity(None).expect("readable");
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| all.is_set(*cpu)).expect("one");
    (last.to_string(), attributes::own()["Cpus_allowed_list"].clone())
}

/// Starts a server that changes itself, and reloads five times. Returns the attributes of each generation at its start.
#[track_caller]
fn of_each_generation(start: impl FnOnce(Start) -> Start) -> Vec<Attributes> {
    let app = App::new(Options { changes_itself: true, ..Options::default() });
    let server = start(app.prepare()).ready();
    for _ in 0..5 {
        server.reload();
    }
    wait_until("each generation has logged its attributes", || server.count_log(CHANGED) == 6);
    let logged = |what: &str| -> Vec<Attributes> {
        let log = server.log();
        let lines = log.lines().filter_map(|line| line.split_once(what));
        lines.map(|(_, json)| serde_json::from_str(json).expect("what the server has written")).collect()
    };
    let (at_start, changed) = (logged(AT_START), logged(CHANGED));
    // Without the changes this test would show nothing.
    let differing = attributes::differing(&at_start[0], &changed[0]);
    for name in CHANGES {
        // A machine may have one processor only.
        let cannot_differ = name == "Cpus_allowed_list" && processors().0 == "0";
        assert!(cannot_differ || differing.contains(&name), "{name} is not changed: {differing:?}");
    }
    at_start
}

#[test]
fn five_generations_of_a_server_that_changes_itself_start_as_the_first_one() {
    if !is_root() {
        return;
    }
    let (last, _) = processors();
    let all = of_each_generation(|start| attributes::other(start, &last));
    attributes::assert_other(&all[0], &last);
    for (n, one) in all.iter().enumerate() {
        assert_eq!(
            attributes::differing(one, &all[0]),
            [""; 0],
            "generation {}: {one:#?}, first: {:#?}",
            n + 1,
            all[0]
        );
    }
}

/// Without privilege a nice value cannot be lowered again, nor a hard limit raised: the reload goes on without that.
#[test]
fn what_needs_a_privilege_stays_as_it_is_and_the_rest_is_as_at_the_start() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("given away");
    let (_, every) = processors();
    let all = of_each_generation(|start| {
        attributes::other(start, &every).by_user(NOBODY).env("RUNTIME_DIRECTORY", folder.path())
    });
    attributes::assert_other(&all[0], &every);
    for (n, one) in all.iter().enumerate().skip(1) {
        let differing = attributes::differing(one, &all[0]);
        assert_eq!(differing, ["Max open files", "nice"], "generation {}: {one:#?}", n + 1);
        assert_eq!((one["nice"].as_str(), one["Max open files"].as_str()), ("5", "1000 3000 files"));
    }
}

/// The program is started anew from the supervisor, whose attributes an administrator has changed.
#[test]
fn five_generations_of_a_program_that_is_run_start_as_the_first_one() {
    if !is_root() {
        return;
    }
    let (last, _) = processors();
    let (port, script) = (Port::free(), Script::server());
    let run = Run::at(port.address, script.at(port.address)).with(|start| attributes::other(start, &last)).ready();
    // Each generation of a program leads its own process group.
    let of_live = || {
        let mut attributes = attributes::of(run.live());
        attributes.remove("group");
        attributes
    };
    let first = of_live();
    attributes::assert_other(&first, &last);
    for generation in 2..=6 {
        attributes::change(run.first_pid());
        run.reload_to(generation);
        let next = of_live();
        assert_eq!(
            attributes::differing(&next, &first),
            [""; 0],
            "generation {generation}: {next:#?}, first: {first:#?}"
        );
    }
    let supervisor = attributes::of(run.first_pid());
    assert!(attributes::differing(&supervisor, &first).contains(&"nice"), "it was changed: {supervisor:#?}");
}

/// As under nohup(1): SIGHUP is ignored at the start, and still reloads each generation.
#[test]
fn a_server_that_was_started_with_sighup_ignored_reloads_at_sighup() {
    let server = Start::serve().under(["sh", "-c", "trap '' HUP; exec \"$0\" \"$@\""]).ready();
    for _ in 0..2 {
        server.reload();
    }
    assert!(http_get(server.addr(), "/").expect("an answer").contains("generation 3"));
}

/// As on Linux before 5.9, which has no close_range(2), and in gVisor, which has no CLONE_PIDFD.
#[test]
fn where_the_kernel_offers_less_the_next_generation_is_spawned_all_the_same() {
    let with_pidfd = libc::CLONE_PIDFD | libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let less = [Refused::CloseRange, Refused::Clone(with_pidfd)];
    let server = less.into_iter().fold(Start::serve(), Start::refused).ready();
    server.reload();
    server.reload();
    assert!(http_get(server.addr(), "/").expect("an answer").contains("generation 3"));
}

/// The environment of the first generation is just small enough; what the next one is told beside it is too much.
#[test]
fn an_environment_that_is_too_large_for_exec_is_named_and_the_old_generation_serves_on() {
    const PIECE: usize = 100_000;
    // `bprm_stack_limits` in fs/exec.c.
    let limit = getrlimit(Resource::Stack).current.map_or(6 << 20, |stack| (stack / 4).clamp(128 << 10, 6 << 20));
    let used = {
        let server = Start::serve().ready();
        let file = |name: &str| fs::read(format!("/proc/{}/{name}", server.first_pid())).expect("alive");
        let strings = [file("environ"), file("cmdline")].concat();
        let pointers = strings.iter().filter(|byte| **byte == 0).count() * size_of::<usize>();
        strings.len() + pointers + env!("CARGO_BIN_EXE_cutover").len() + 1
    };
    // Two more variables would not fit.
    let mut left = usize::try_from(limit).expect("small") - used - 64;
    let mut start = Start::serve();
    for n in 100.. {
        let name = format!("LARGE{n}");
        let size = PIECE.min(left).saturating_sub(name.len() + 2 + size_of::<usize>());
        if size == 0 {
            break;
        }
        start = start.env(name, "x".repeat(size));
        left -= PIECE.min(left);
    }
    let server = start.ready();
    for generation in 2..4 {
        let mark = server.mark();
        server.hup();
        let line = server.wait_log_after(mark, "reload failed", SOON);
        for word in [
            &format!("generation {generation} "),
            env!("CARGO_BIN_EXE_cutover"),
            "Argument list too long (os error 7): ",
            " environment variables have ",
            &format!("both together may have {limit}, "),
            "generation 1 serves on",
        ] {
            assert!(line.contains(word), "`{word}` is not in: {line}");
        }
        assert!(http_get(server.addr(), "/").expect("an answer").contains("generation 1"));
    }
}
