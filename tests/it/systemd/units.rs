//! The unit files themselves: systemd reports no problem, and the server needs nothing that they forbid.

use super::{PROGRAM, REAL, Site, UNIT, file, on_each_suite};
use crate::support::systemd::{Machine, Suite, said};

const SYSCTL: &str = "60-cutover.conf";

on_each_suite! {
    are_verified;
    steer_in_spite_of_all_that_is_forbidden;
    the_template_has_instances_that_do_not_touch_each_other;
    the_sysctl_file_sets_what_it_says;
    the_doctor_finds_no_fault_but_those_that_are_sown;
}

/// The doctor runs before and after a reload, which changes the main process.
fn the_doctor_finds_no_fault_but_those_that_are_sown(suite: Suite) {
    let Some(site) = Site::start(suite, "cutover.service", "") else { return };
    let doctor = || site.machine.run(&[PROGRAM, "doctor", "--unit", UNIT]);
    for _ in 0..2 {
        let done = doctor();
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
        site.machine.must(&["systemctl", "reload", UNIT]);
    }
    for (fault, words) in [
        ("KillMode=none", "KillMode"),
        ("RestrictAddressFamilies=\nRestrictAddressFamilies=AF_INET AF_UNIX", "AF_NETLINK"),
        ("AmbientCapabilities=", "CAP_NET_BIND_SERVICE"),
        ("PIDFile=/run/cutover/x.pid\nExecReload=\nExecReload=/bin/kill -HUP $MAINPID", "PIDFile"),
    ] {
        site.machine.unit("cutover.service.d/fault.conf", &format!("[Service]\n{fault}\n"));
        site.machine.must(&["systemctl", "daemon-reload"]);
        let done = doctor();
        assert_eq!(done.status.code(), Some(1), "{fault}: {}", said(&done));
        let said = said(&done);
        let found = said.lines().any(|line| line.contains("problem") && line.contains(words));
        assert!(found, "{fault}: {said}");
    }
}

fn are_verified(suite: Suite) {
    let Some(machine) = Machine::boot(suite) else { return };
    machine.copy(REAL, PROGRAM);
    let mut files = vec!["cutover.service", "cutover@.service"];
    if suite == Suite::Trixie {
        files.push("cutover-notify-reload.service");
    }
    for name in files {
        machine.unit(name, &file(name));
        let done = machine.run(&["systemd-analyze", "verify", &name.replace('@', "@web")]);
        // systemd reports an unknown line as a warning, and not as a failure.
        assert!(done.status.success() && said(&done).is_empty(), "{name}: {}", said(&done));
    }
}

fn steer_in_spite_of_all_that_is_forbidden(suite: Suite) {
    let Some(site) = Site::start(suite, "cutover.service", "") else { return };
    let mark = site.mark();
    site.reload(2);
    site.wait_log(mark, " gone generation=1 ");
    let status = site.machine.must(&[PROGRAM, "status"]);
    assert!(status.contains("steering     steered"), "{status}");
    for line in site.machine.journal_of(UNIT) {
        // The server logs a warning for each thing that it could not do.
        assert!(!line.contains(" WARN ") && !line.contains(" ERROR "), "{line}");
    }
}

fn the_template_has_instances_that_do_not_touch_each_other(suite: Suite) {
    let Some(site) = Site::start(suite, "cutover.service", "") else { return };
    let machine = &site.machine;
    machine.unit("cutover@.service", &file("cutover@.service"));
    for (name, port) in [("one", 8001), ("two", 8002)] {
        machine.script(&format!("OPTIONS=--listen 0.0.0.0:{port} --soak 0s\n"), &format!("/etc/cutover/{name}.conf"));
        machine.must(&["systemctl", "start", &format!("cutover@{name}")]);
    }
    let pids = || ["cutover@one", "cutover@two", "cutover"].map(|unit| machine.main_pid(unit));
    let before = pids();
    machine.must(&["systemctl", "reload", "cutover@one"]);
    let after = pids();
    assert!(before[0] != after[0] && before[1..] == after[1..], "{before:?}, then {after:?}");
    // The folder of a stopped instance is not above the folders of the others, so its removal leaves them alone.
    machine.must(&["systemctl", "stop", "cutover"]);
    machine.must(&["systemctl", "stop", "cutover@one"]);
    machine.must(&["systemctl", "reload", "cutover@two"]);
    machine.must(&[PROGRAM, "status", "--name", "cutover@two"]);
    assert_ne!(machine.main_pid("cutover@two"), before[1]);
}

fn the_sysctl_file_sets_what_it_says(suite: Suite) {
    let Some(machine) = Machine::boot(suite) else { return };
    let path = format!("/etc/sysctl.d/{SYSCTL}");
    machine.script(&file(SYSCTL), &path);
    machine.must(&["/usr/lib/systemd/systemd-sysctl", &path]);
    // The settings of a network belong to its namespace.
    for (key, value) in [("core/somaxconn", "4096"), ("ipv4/tcp_migrate_req", "1")] {
        assert_eq!(machine.must(&["cat", &format!("/proc/sys/net/{key}")]), value, "{key}");
    }
}

/// Each of the three units is complete by itself; the lines that they have in common must stay the same.
#[test]
fn say_the_same_where_they_can() {
    let differing = ["Description=", "Type=", "ReloadSignal=", "ExecStart=", "ExecReload=", "EnvironmentFile="];
    let lines = |name: &str| -> Vec<String> {
        let text = file(name);
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.filter(|line| !differing.iter().any(|key| line.starts_with(key))).map(str::to_owned).collect()
    };
    for name in ["cutover-notify-reload.service", "cutover@.service"] {
        assert_eq!(lines(name), lines("cutover.service"), "{name}");
    }
}
