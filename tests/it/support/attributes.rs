//! The attributes that a process has from its start: how they are seen, and a server that changes all of its own.
#![allow(unsafe_code, reason = "the standard library cannot ignore a signal")]

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU64;

use rustix::fs::Mode;
use rustix::process::{Pid, Resource, Rlimit, geteuid, getrlimit, prlimit, setpriority_process, setrlimit, umask};
use rustix::thread::{CpuSet, current_timer_slack, sched_getaffinity, sched_setaffinity, set_current_timer_slack};

use super::process::Start;

/// The words before the attributes that a server logs of itself.
pub const AT_START: &str = "attributes at start ";
pub const CHANGED: &str = "attributes after the change ";

/// Names and values.
pub type Attributes = BTreeMap<String, String>;

/// Starts the program with attributes other than those of the test: limits, umask, an ignored signal, OOM score, timer
/// slack, nice value, and processors (a list as in taskset(1)).
pub fn other(start: Start, cpus: &str) -> Start {
    let script = format!(
        "ulimit -S -n 1000; umask 0027; trap '' QUIT; echo 50 >/proc/self/oom_score_adj
echo 70000 >/proc/self/timerslack_ns; exec nice -n 2 taskset -c {cpus} \"$0\" \"$@\""
    );
    start.under(["sh", "-c", &script])
}

/// The values of [`other`].
#[track_caller]
pub fn assert_other(attributes: &Attributes, cpus: &str) {
    for (name, value) in [
        ("Umask", "0027"),
        ("nice", "2"),
        ("oom_score_adj", "50"),
        ("timerslack_ns", "70000"),
        ("Cpus_allowed_list", cpus),
    ] {
        assert_eq!(attributes[name], value, "{name}: {attributes:#?}");
    }
    assert!(attributes["Max open files"].starts_with("1000 "), "{attributes:#?}");
    assert!(ignores(attributes, libc::SIGQUIT), "{attributes:#?}");
}

pub fn ignores(attributes: &Attributes, signal: i32) -> bool {
    u64::from_str_radix(&attributes["SigIgn"], 16).expect("hexadecimal") & 1 << (signal - 1) != 0
}

/// The attributes of a process; reading the timer slack of another process needs root.
#[track_caller]
pub fn of(pid: u32) -> Attributes {
    let slack = fs::read_to_string(format!("/proc/{pid}/timerslack_ns")).expect("readable for root");
    read(&format!("/proc/{pid}"), slack.trim().to_owned())
}

/// The attributes of the calling thread and its process.
pub fn own() -> Attributes {
    read("/proc/thread-self", current_timer_slack().expect("readable").to_string())
}

fn read(folder: &str, slack: String) -> Attributes {
    let file = |name: &str| fs::read_to_string(format!("{folder}/{name}")).expect("alive");
    let mut attributes = Attributes::new();
    attributes.insert("timerslack_ns".into(), slack);
    attributes.insert("oom_score_adj".into(), file("oom_score_adj").trim().to_owned());
    // proc_pid_limits(5): the name has 26 columns.
    for line in file("limits").lines().skip(1) {
        let (name, value) = line.split_at(26);
        attributes.insert(name.trim().into(), value.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    for line in file("status").lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if ["Umask", "SigIgn", "SigBlk", "Cpus_allowed_list"].contains(&name) {
            attributes.insert(name.into(), value.trim().into());
        }
    }
    // proc_pid_stat(5): what comes after the name begins with column 3.
    let stat = file("stat");
    let columns: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    for (name, column) in [("group", 5), ("session", 6), ("nice", 19), ("policy", 41)] {
        attributes.insert(name.into(), columns[column - 3].into());
    }
    attributes
}

/// The names of those that differ.
pub fn differing<'a>(a: &'a Attributes, b: &'a Attributes) -> Vec<&'a str> {
    a.iter().filter(|(name, value)| b.get(*name) != Some(value)).map(|(name, _)| name.as_str()).collect()
}

/// What [`change_own`] changes.
pub const CHANGES: [&str; 8] = [
    "Cpus_allowed_list",
    "Max cpu time",
    "Max open files",
    "SigIgn",
    "Umask",
    "nice",
    "oom_score_adj",
    "timerslack_ns",
];

/// Logs the attributes of this process, changes them, and logs them again. The threads that the calling thread starts
/// afterwards inherit the changes.
pub fn change_own() {
    let shown = |what: &str| println!("\n{what}{}", serde_json::to_string(&own()).expect("plain data"));
    shown(AT_START);
    // Root may have no CAP_SYS_RESOURCE, without which a hard limit cannot be raised again.
    let hard = if geteuid().is_root() { getrlimit(Resource::Nofile).maximum } else { Some(3000) };
    setrlimit(Resource::Nofile, Rlimit { current: Some(2000), maximum: hard }).expect("lower");
    let time = getrlimit(Resource::Cpu);
    setrlimit(Resource::Cpu, Rlimit { current: Some(1_000_000), ..time }).expect("within the hard limit");
    umask(Mode::from_raw_mode(0o007));
    pin_to_first(None);
    setpriority_process(None, 5).expect("higher");
    fs::write("/proc/self/oom_score_adj", "321").expect("higher");
    set_current_timer_slack(NonZeroU64::new(1_000_000)).expect("any value");
    for (signal, disposition) in [(libc::SIGWINCH, libc::SIG_IGN), (libc::SIGQUIT, libc::SIG_DFL)] {
        // SAFETY: no handler is installed, and nothing else in this process handles these signals.
        unsafe { libc::signal(signal, disposition) };
    }
    shown(CHANGED);
}

/// Lets the thread run on the first of its allowed processors only; `None` is the calling thread.
fn pin_to_first(thread: Option<Pid>) {
    let mut every = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| every.set(cpu));
    sched_setaffinity(thread, &every).expect("allowed");
    let allowed = sched_getaffinity(thread).expect("readable");
    let mut first = CpuSet::new();
    first.set((0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).expect("one"));
    sched_setaffinity(thread, &first).expect("allowed");
}

/// Changes the attributes of another process as an administrator does: prlimit(1), renice(1), taskset(1), choom(1).
/// Needs root.
pub fn change(pid: u32) {
    let process = |number: u32| Pid::from_raw(i32::try_from(number).expect("a pid"));
    let limit = Rlimit { current: Some(2000), ..getrlimit(Resource::Nofile) };
    prlimit(process(pid), Resource::Nofile, limit).expect("allowed");
    fs::write(format!("/proc/{pid}/oom_score_adj"), "321").expect("allowed");
    for thread in fs::read_dir(format!("/proc/{pid}/task")).expect("alive") {
        let thread = thread.expect("readable").file_name().into_string().expect("a number");
        // A thread of the pool may have ended by now.
        let Ok(()) = fs::write(format!("/proc/{thread}/timerslack_ns"), "1000000") else { continue };
        let thread = process(thread.parse().expect("a number"));
        pin_to_first(thread);
        setpriority_process(thread, 5).expect("allowed");
    }
}
