//! Units, as a simulated systemctl shows them: the doctor finds each fault.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use cutover::doctor::Level;
use tempfile::TempDir;

use super::once::{Doctor, Report};
use super::{CUTOVER, says};

/// systemd/cutover.service, as systemd 257 shows it.
const SHIPPED: &str = include_str!("../../../src/doctor/unit/tests/shipped-257.txt");

const STOPS_AT_ONCE: &str =
    "{ path=/bin/kill ; argv[]=/bin/kill $MAINPID ; ignore_errors=no ; start_time=[n/a] ; pid=0 }";

/// A folder with a `systemctl` that prints what a test has written.
struct Systemctl(TempDir);

impl Systemctl {
    fn with(script: &str) -> Systemctl {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("systemctl");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
        Systemctl(folder)
    }

    /// Shows these properties of the unit, and this text as its file.
    fn showing(version: u32, properties: &str, file: &str) -> Systemctl {
        let systemctl = Systemctl::with(&format!(
            "here=${{0%/*}}\ncase $1 in\n--version) echo 'systemd {version} ({version}.1-1)';;\n\
             show) cat $here/shown;;\ncat) cat $here/file;;\n*) exit 1;;\nesac"
        ));
        fs::write(systemctl.0.path().join("shown"), properties).expect("written");
        fs::write(systemctl.0.path().join("file"), file).expect("written");
        systemctl
    }

    fn doctor(&self) -> Doctor {
        let path = std::env::var("PATH").unwrap_or_default();
        Doctor::new().env("PATH", format!("{}:{path}", self.0.path().display()))
    }

    fn report(&self) -> Report {
        self.doctor().unit("cutover").run()
    }
}

/// The shipped unit, with a program that exists and a port that no other process uses.
fn shipped() -> String {
    SHIPPED.replace("/usr/local/bin/cutover", CUTOVER).replace("0.0.0.0:80", "127.0.0.1:1")
}

/// The shipped unit with another value for one property.
fn sown(key: &str, value: &str) -> String {
    let others = |line: &&str| line.split_once('=').is_none_or(|(found, _)| found != key);
    let line = format!("{key}={value}");
    shipped().lines().filter(others).chain([line.as_str()]).map(|line| format!("{line}\n")).collect()
}

/// Whether every user may bind every port, as in many containers: then no unit needs the capability.
fn unprivileged() -> bool {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    first.is_ok_and(|first| first.trim().parse().is_ok_and(|first: u16| first <= 1))
}

#[test]
fn the_shipped_unit_has_no_problem() {
    let systemctl = Systemctl::showing(257, &shipped(), "[Service]\nType=notify\n");
    let report = systemctl.report();
    assert_eq!(report.code, Some(0), "{report:#?}");
    says(&report, Level::Ok, "cutover.service", &["systemd 257"]);
    says(&report, Level::Note, "ExecReload", &["cutover reload"]);
    says(&report, Level::Ok, "127.0.0.1:1", &["nobody"]);
}

#[test]
fn each_fault_of_a_unit_is_found_with_how_to_mend_it() {
    for (key, value, subject, fix) in [
        ("NotifyAccess", "none", "NotifyAccess", "NotifyAccess=main"),
        ("Type", "simple", "Type", "Type=notify"),
        ("KillMode", "none", "KillMode", "KillMode=mixed"),
        ("PIDFile", "/run/cutover/cutover.pid", "PIDFile", "remove PIDFile="),
        ("WatchdogUSec", "200ms", "WatchdogSec", "WatchdogSec=10s"),
        ("AmbientCapabilities", "", "port 1", "AmbientCapabilities=CAP_NET_BIND_SERVICE"),
        ("RestrictAddressFamilies", "AF_INET AF_UNIX", "RestrictAddressFamilies", "AF_NETLINK"),
        ("SystemCallFilter", "~pidfd_open", "SystemCallFilter", "pidfd_open"),
        ("ExecReload", "", "ExecReload", "ExecReload="),
        ("ExecStop", STOPS_AT_ONCE, "ExecStop", "remove ExecStop="),
        ("RuntimeDirectory", "web", "--pid-file", "RuntimeDirectory=cutover"),
        ("TimeoutStopUSec", "3s", "TimeoutStopSec", "TimeoutStopSec=75s"),
        ("LimitNOFILESoft", "64", "descriptors", "LimitNOFILE=65536"),
    ] {
        if subject == "port 1" && unprivileged() {
            continue;
        }
        let report = Systemctl::showing(257, &sown(key, value), "").report();
        says(&report, Level::Problem, subject, &[fix]);
        assert_eq!(report.code, Some(1), "{key}={value}");
        let problems = report.findings.iter().filter(|finding| finding.level == Level::Problem).count();
        assert_eq!(problems, 1, "{key}={value}: {report:#?}");
    }
}

#[test]
fn a_type_that_this_version_does_not_know() {
    let systemctl = Systemctl::showing(252, &sown("Type", "simple"), "[Service]\nType=notify-reload\n");
    let report = systemctl.report();
    says(&report, Level::Problem, "Type", &["252", "notify-reload", "simple"]);
    assert_eq!(report.code, Some(1));
}

#[test]
fn a_unit_that_systemd_does_not_know() {
    let report = Systemctl::showing(257, "Id=cutover.service\nLoadState=not-found\n", "").report();
    says(&report, Level::Problem, "cutover", &["no such unit"]);
    assert_eq!(report.code, Some(1));
}

#[test]
fn no_systemd_and_no_systemctl() {
    let fails = Systemctl::with("echo 'System has not been booted with systemd' >&2; exit 1");
    says(&fails.report(), Level::Problem, "cutover", &["has not been booted"]);
    let nothing = tempfile::tempdir().expect("a folder");
    let report = Doctor::new().env("PATH", nothing.path()).unit("cutover").run();
    says(&report, Level::Problem, "cutover", &["no systemctl"]);
    assert_eq!(report.code, Some(1));
}

#[test]
fn a_systemctl_that_hangs_is_not_waited_for() {
    let began = Instant::now();
    let report = Systemctl::with("exec sleep 120").report();
    says(&report, Level::Problem, "cutover", &["no answer"]);
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
}
