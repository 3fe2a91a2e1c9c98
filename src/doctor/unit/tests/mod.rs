//! Each fault that is put into the shipped unit brings its own finding and no other.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::doctor::Level::{self, Note, Ok as Fine, Problem};
use crate::model::identity::Pid;

/// systemd/cutover.service, as systemd 257 shows it.
const SHIPPED: &str = include_str!("shipped-257.txt");

fn shipped() -> Unit {
    Unit::new(257, Properties::parse(SHIPPED), BTreeMap::from([("Type".to_owned(), "notify".to_owned())]))
}

/// The shipped unit, with an ExecReload= that waits for the outcome.
fn waiting() -> Unit {
    sown(&[("ExecReload", "/usr/local/bin/cutover reload")])
}

fn exec(line: &str) -> String {
    let path = line.split(' ').next().unwrap_or_default();
    format!("{{ path={path} ; argv[]={line} ; ignore_errors=no ; start_time=[n/a] ; pid=0 ; status=0/0 }}")
}

/// The shipped unit with these properties; properties that start a program are written as in a unit file.
fn sown(properties: &[(&str, &str)]) -> Unit {
    let mut shown = Properties::parse(SHIPPED);
    for (key, value) in properties {
        match *value {
            "" if key.starts_with("Exec") => shown.remove(key),
            line if ["ExecStart", "ExecReload", "ExecStop"].contains(key) => shown.set(key, &exec(line)),
            value => shown.set(key, value),
        }
    }
    Unit::new(257, shown, BTreeMap::new())
}

/// All findings other than ok, except for the note that kill(1) does not wait.
fn amiss(unit: &Unit) -> Vec<(Level, String)> {
    let all = lint(unit).into_iter().filter(|f| f.level != Fine);
    let others = all.filter(|f| !(f.level == Note && f.subject == "ExecReload" && f.what.starts_with("kill:")));
    others.map(|f| (f.level, f.subject)).collect()
}

#[track_caller]
fn brings(unit: &Unit, level: Level, subject: &str) -> Finding {
    assert_eq!(amiss(unit), [(level, subject.to_owned())], "{:#?}", lint(unit));
    let found = lint(unit).into_iter().find(|f| f.subject == subject && f.level == level).expect("there");
    assert!(found.fix.as_ref().is_some_and(|fix| !fix.is_empty()), "{found:?} does not say how to fix it");
    found
}

#[test]
fn the_shipped_unit_has_no_problem_and_one_that_waits_has_not_even_a_note() {
    assert_eq!(amiss(&shipped()), []);
    assert_eq!(lint(&shipped()).iter().filter(|f| f.level == Note).count(), 1, "that kill(1) does not wait");
    assert!(lint(&waiting()).iter().all(|f| f.level == Fine), "{:#?}", lint(&waiting()));
    let on_252 = Unit { version: 252, ..shipped() };
    assert_eq!(amiss(&on_252), []);
}

#[test]
fn one_property_one_finding() {
    for (key, value, level, subject) in [
        ("NotifyAccess", "none", Problem, "NotifyAccess"),
        ("NotifyAccess", "all", Note, "NotifyAccess"),
        ("Type", "simple", Problem, "Type"),
        ("Type", "forking", Problem, "Type"),
        ("PIDFile", "/run/cutover/cutover.pid", Problem, "PIDFile"),
        ("WatchdogUSec", "500ms", Problem, "WatchdogSec"),
        ("Restart", "no", Note, "Restart"),
        ("KillMode", "none", Problem, "KillMode"),
        ("KillMode", "control-group", Note, "KillMode"),
        ("KillMode", "process", Note, "KillMode"),
        ("KillSignal", "3", Problem, "KillSignal"),
        ("TimeoutStopUSec", "10s", Note, "TimeoutStopSec"),
        ("TimeoutStopUSec", "2s", Problem, "TimeoutStopSec"),
        ("ExecReload", "", Problem, "ExecReload"),
        ("ExecReload", "/bin/kill -USR2 $MAINPID", Problem, "ExecReload"),
        ("ExecReload", "/usr/bin/touch /tmp/x", Note, "ExecReload"),
        ("ExecStop", "/bin/kill -TERM $MAINPID", Problem, "ExecStop"),
        ("AmbientCapabilities", "", Problem, "port 80"),
        ("CapabilityBoundingSet", "cap_chown", Problem, "port 80"),
        ("PrivateUsers", "yes", Problem, "port 80"),
        ("PrivateNetwork", "yes", Note, "network"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX", Problem, "RestrictAddressFamilies"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_NETLINK", Problem, "RestrictAddressFamilies"),
        ("RestrictAddressFamilies", "AF_INET6 AF_NETLINK AF_UNIX", Problem, "RestrictAddressFamilies"),
        ("RestrictAddressFamilies", "~AF_NETLINK", Problem, "RestrictAddressFamilies"),
        ("RestrictAddressFamilies", "", Problem, "RestrictAddressFamilies"),
        ("RuntimeDirectory", "web", Note, "RuntimeDirectory"),
        ("LimitNOFILESoft", "1024", Note, "descriptors"),
        ("LimitNOFILESoft", "64", Problem, "descriptors"),
        ("MemoryMax", "67108864", Note, "MemoryMax"),
        ("NeedDaemonReload", "yes", Note, "cutover.service"),
    ] {
        let extra = ("ReadWritePaths", "/run/cutover");
        brings(&sown(&[(key, value), extra]), level, subject);
    }
}

#[test]
fn what_is_as_it_should_be_brings_nothing() {
    for (key, value) in [
        ("NotifyAccess", "exec"),
        ("RestrictAddressFamilies", "~"),
        ("RestrictAddressFamilies", "~AF_PACKET"),
        ("RestrictAddressFamilies", "AF_INET AF_NETLINK AF_UNIX"),
        ("WatchdogUSec", "10s"),
        ("WatchdogUSec", "0"),
        ("ExecStop", "/usr/local/bin/cutover stop"),
        ("ExecStop", "/bin/sh -c kill -TERM $MAINPID; while kill -0 $MAINPID; do sleep 0.1; done"),
        ("ExecReload", "/bin/sh -c kill -s HUP $MAINPID"),
        ("TimeoutStopUSec", "infinity"),
        ("Restart", "always"),
        ("LimitNOFILESoft", "infinity"),
    ] {
        assert_eq!(amiss(&sown(&[(key, value)])), [], "{key}={value}");
    }
}

#[test]
fn what_a_version_does_not_understand_stands_in_the_files() {
    let written = BTreeMap::from([("Type".to_owned(), "notify-reload".to_owned())]);
    let taken_for_simple = Unit { version: 252, written: written.clone(), ..sown(&[("Type", "simple")]) };
    let found = brings(&taken_for_simple, Problem, "Type");
    assert!(found.what.contains("252") && found.what.contains("simple"), "{found:?}");
    let understood = Unit { written, ..sown(&[("Type", "notify-reload"), ("ExecReload", "")]) };
    assert_eq!(amiss(&understood), []);
    let watchdog = BTreeMap::from([("WatchdogSec".to_owned(), "300ms".to_owned())]);
    brings(&Unit { written: watchdog, ..shipped() }, Problem, "WatchdogSec");
}

#[test]
fn a_type_that_reloads_by_itself_needs_no_command_and_no_other_signal() {
    let by_systemd = ("Type", "notify-reload");
    brings(&sown(&[by_systemd]), Note, "ExecReload");
    brings(&sown(&[by_systemd, ("ExecReload", "/usr/local/bin/cutover reload")]), Problem, "ExecReload");
    brings(&sown(&[by_systemd, ("ExecReload", ""), ("ReloadSignal", "12")]), Problem, "ReloadSignal");
}

#[test]
fn a_reload_that_waits_needs_time_and_a_control_socket() {
    let reload = ("ExecReload", "/usr/local/bin/cutover reload");
    let start = |more: &str| format!("/usr/local/bin/cutover serve --listen 0.0.0.0:80 --drain-timeout 60s {more}");
    let slow = start("--canary 5%:60s,50%:60s");
    brings(&sown(&[reload, ("ExecStart", &slow)]), Note, "TimeoutStartSec");
    brings(&sown(&[reload, ("ExecStart", &slow), ("TimeoutStartUSec", "3s")]), Problem, "TimeoutStartSec");
    assert_eq!(amiss(&sown(&[("ExecStart", &slow)])), [], "kill(1) does not wait");
    assert_eq!(amiss(&sown(&[reload, ("ExecStart", &slow), ("TimeoutStartUSec", "infinity")])), []);
    brings(&sown(&[reload, ("ExecStart", &start("--no-control"))]), Problem, "ExecReload");
    brings(&sown(&[reload, ("ExecStart", &start("")), ("RuntimeDirectory", "")]), Problem, "RuntimeDirectory");
    brings(&sown(&[("ExecStart", &start("")), ("RuntimeDirectory", "")]), Note, "RuntimeDirectory");
    let ignored = sown(&[reload]);
    let mut shown = ignored.shown.clone();
    shown.set("ExecReload", &exec("/usr/local/bin/cutover reload").replace("ignore_errors=no", "ignore_errors=yes"));
    brings(&Unit { shown, ..ignored }, Note, "ExecReload");
}

#[test]
fn a_user_that_is_dropped_cannot_bind_again() {
    let root = [("User", ""), ("DynamicUser", "no")];
    assert_eq!(amiss(&sown(&root)), [], "root stays root");
    brings(&Unit { main_uid: Some(33), ..sown(&root) }, Problem, "User");
    let mut shown = shipped().shown;
    shown.set("ExecStartEx", &exec("/x").replace("ignore_errors=no", "flags=no-setuid"));
    brings(&Unit { shown, ..shipped() }, Problem, "User");
}

#[test]
fn system_calls_by_name_by_group_and_by_error() {
    let calls = |filter: &str, number: &str| {
        let unit = sown(&[("SystemCallFilter", filter), ("SystemCallErrorNumber", number)]);
        let found = lint(&unit).into_iter().filter(|f| f.subject == "SystemCallFilter" && f.level != Fine);
        found.map(|f| (f.level, f.what.split([':', ',']).next().unwrap_or_default().to_owned())).collect::<Vec<_>>()
    };
    let one = |level, what: &str| vec![(level, what.to_owned())];
    assert_eq!(calls("@system-service", "1"), []);
    assert_eq!(calls("~bpf reboot", "1"), []);
    assert_eq!(calls("~membarrier", "1"), one(Note, "refuses membarrier"));
    assert_eq!(calls("~membarrier", "2147483646"), one(Problem, "kills a process that calls membarrier"));
    assert_eq!(calls("~membarrier:EPERM", "2147483646"), one(Note, "refuses membarrier"));
    let rest = "membarrier pidfd_open pidfd_send_signal execve waitid";
    assert_eq!(calls(rest, "1"), one(Problem, "refuses setsockopt"));
    assert_eq!(calls("@system-service setsockopt:EPERM", "kill"), one(Problem, "refuses setsockopt"));
    assert_eq!(calls("@default @network-io membarrier pidfd_open", "1").len(), 2, "pidfd_send_signal, waitid");
}

#[test]
fn a_pid_file_needs_a_folder_that_can_be_written() {
    let start = |path: &str| format!("/usr/local/bin/cutover serve --listen 0.0.0.0:80 --pid-file {path}");
    let (var, run, own) = (start("/var/x/web.pid"), start("/run/web.pid"), start("/var/lib/web/web.pid"));
    brings(&sown(&[("ExecStart", &var)]), Problem, "--pid-file");
    brings(&sown(&[("ExecStart", &run)]), Problem, "--pid-file");
    brings(&sown(&[("ExecStart", &run), ("ProtectSystem", "no")]), Problem, "--pid-file");
    assert_eq!(amiss(&sown(&[("ExecStart", &var), ("ProtectSystem", "full")])), []);
    assert_eq!(amiss(&sown(&[("ExecStart", &var), ("ReadWritePaths", "/var/x")])), []);
    assert_eq!(amiss(&sown(&[("ExecStart", &own), ("StateDirectory", "web:web-2")])), []);
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let missing = |path: &str| BTreeSet::from([path.to_owned()]);
    let found = brings(&Unit { missing: missing("/bin/kill"), ..shipped() }, Problem, "ExecReload");
    assert!(found.fix.is_some_and(|fix| fix.contains("procps")));
    brings(&Unit { missing: missing("/usr/local/bin/cutover"), ..shipped() }, Problem, "ExecStart");
}

#[test]
fn of_another_program_only_what_applies_is_said() {
    let other = sown(&[("ExecStart", "/srv/web --port 80"), ("TimeoutStopUSec", "1s"), ("RuntimeDirectory", "")]);
    assert_eq!(amiss(&other), []);
    assert!(lint(&other).iter().all(|f| !f.subject.starts_with("port") && f.subject != "TimeoutStopSec"));
    brings(&sown(&[("ExecStart", "/srv/web"), ("NotifyAccess", "none")]), Problem, "NotifyAccess");
}

#[test]
fn the_main_process_is_known_when_it_runs() {
    assert_eq!(shipped().main(), None);
    let running = sown(&[("MainPID", "42"), ("MemoryMax", "67108864"), ("LimitNOFILESoft", "64")]);
    assert_eq!(running.main(), Some(Pid::new(42)));
    assert_eq!(amiss(&running), [], "the process itself is looked at");
}
