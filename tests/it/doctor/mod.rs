//! `cutover doctor`, as the real program, finds faults of the machine, the address, the limits and the unit.

mod once;
mod unit;

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cutover::doctor::Level;
use rustix::process::geteuid;

use crate::support::join_group;
use crate::support::process::{Instance, Start};
use crate::support::seccomp::Refused;
use once::{Doctor, Report};

const CUTOVER: &str = env!("CARGO_BIN_EXE_cutover");

fn of(server: &Instance) -> Doctor {
    Doctor::new().env("RUNTIME_DIRECTORY", server.directory().join("run")).listen(server.addr())
}

#[track_caller]
fn says(report: &Report, level: Level, subject: &str, words: &[&str]) {
    let found = report.of(subject);
    let fits = |what: &str| words.iter().all(|word| what.contains(word));
    assert!(
        found
            .iter()
            .any(|f| f.level == level && fits(&format!("{}; {}", f.what, f.fix.as_deref().unwrap_or_default()))),
        "no {level} of {subject} with {words:?}: {report:#?}"
    );
}

fn migrates() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|set| set.trim() == "1")
}

#[test]
fn a_healthy_machine_is_steered() {
    let report = Doctor::new().run();
    assert_eq!(report.code, Some(0), "{report:#?}");
    says(&report, Level::Ok, "steering", &["steered"]);
    for subject in ["kernel", "sock_diag", "membarrier", "pidfd", "tcp_migrate_req"] {
        says(&report, Level::Ok, subject, &[]);
    }
}

#[test]
fn one_line_a_finding_without_colour_for_whoever_reads_it_later() {
    let text = Doctor::new().run_text();
    let report = Doctor::new().run();
    assert_eq!(text.lines().count(), report.findings.len(), "{text}");
    for (line, finding) in text.lines().zip(&report.findings) {
        assert!(line.starts_with(&format!("{:<7}  {}: ", finding.level.to_string(), finding.subject)), "{line}");
    }
    assert!(!text.contains('\x1b'));
}

#[test]
fn a_sandbox_that_refuses_the_program() {
    let report = Doctor::new().refused(Refused::SocketOption(libc::SO_ATTACH_REUSEPORT_CBPF)).run();
    if migrates() {
        says(&report, Level::Note, "steering", &["migrating", "not permitted", "seccomp"]);
        assert_eq!(report.code, Some(0));
    } else {
        says(&report, Level::Problem, "steering", &["best effort", "not permitted", "seccomp", "tcp_migrate_req=1"]);
        says(&report, Level::Note, "tcp_migrate_req", &["sysctl -w net.ipv4.tcp_migrate_req=1", "docker run --sysctl"]);
        assert_eq!(report.code, Some(1));
    }
}

/// A network namespace of its own, in which the setting can be changed.
#[test]
fn where_the_kernel_migrates_nothing_is_lost_without_steering_either() {
    let script = "ip link set lo up && echo 1 > /proc/sys/net/ipv4/tcp_migrate_req && exec \"$@\"";
    let unshare = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", script, "sh"]).args(words);
        command
    };
    if !unshare(&["true"]).output().is_ok_and(|tried| tried.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "skipped, in CI: no network namespace can be had");
        eprintln!("skipped: it needs root, unshare(1) and ip(8)");
        return;
    }
    let doctor = Doctor::within(unshare(&[CUTOVER]));
    let report = doctor.refused(Refused::SocketOption(libc::SO_ATTACH_REUSEPORT_CBPF)).run();
    assert_eq!(report.code, Some(0), "{report:#?}");
    says(&report, Level::Note, "steering", &["migrating", "no probe"]);
    says(&report, Level::Ok, "tcp_migrate_req", &["1"]);
}

#[test]
fn a_sandbox_that_refuses_what_stands_behind_it() {
    let report = Doctor::new().refused(Refused::Membarrier).run();
    says(&report, Level::Note, "membarrier", &["100 ms"]);
    assert_eq!(report.code, Some(0), "it works without: {report:#?}");
    let report = Doctor::new().refused(Refused::Family(libc::AF_NETLINK)).run();
    says(&report, Level::Problem, "sock_diag", &["AF_NETLINK"]);
    assert_eq!(report.code, Some(1));
}

#[test]
fn a_stranger_on_the_address_is_named() {
    let stranger = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = stranger.local_addr().expect("bound");
    let report = Doctor::new().listen(address).run();
    let (pid, uid) = (format!("pid {}", std::process::id()), format!("uid {}", geteuid().as_raw()));
    says(&report, Level::Problem, &address.to_string(), &[&pid, &uid]);
    assert_eq!(report.code, Some(1));
    drop(stranger);
    let report = Doctor::new().listen(address).run();
    says(&report, Level::Ok, &address.to_string(), &["nobody"]);
    assert_eq!(report.code, Some(0), "{report:#?}");
}

#[test]
fn a_less_specific_address_is_noted() {
    let stranger = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = stranger.local_addr().expect("bound").port();
    let report = Doctor::new().listen(([127, 0, 0, 1], port).into()).run();
    says(&report, Level::Note, &format!("127.0.0.1:{port}"), &[&format!("0.0.0.0:{port}"), "more specific"]);
    assert_eq!(report.code, Some(0), "{report:#?}");
}

#[test]
fn an_instance_is_at_home_and_whoever_joins_its_group_is_not() {
    let server = Start::serve().ready();
    let address = server.addr().to_string();
    for next in 2..4 {
        let report = of(&server).run();
        says(&report, Level::Ok, &address, &["the instance", &format!("pid {}", server.main_pid())]);
        says(&report, Level::Ok, "descriptors", &[&format!("pid {}", server.main_pid())]);
        assert_eq!(report.code, Some(0), "{report:#?}");
        server.reload();
        // By then the next generation has the control socket, by which the doctor finds the instance.
        server.wait_log(&format!(" live generation={next} "), Duration::from_secs(10));
    }
    let _stranger = join_group(server.addr());
    let report = of(&server).run();
    says(&report, Level::Ok, &address, &["the instance"]);
    says(&report, Level::Problem, &address, &["joined the group", &format!("pid {}", std::process::id())]);
    assert_eq!(report.code, Some(1));
}

#[test]
fn few_descriptors() {
    for (limit, level, code) in [(100, Level::Problem, 1), (1024, Level::Note, 0)] {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {limit} && exec \"$@\""), "sh", CUTOVER]);
        let report = Doctor::within(shell).run();
        says(&report, level, "descriptors", &[&limit.to_string(), "LimitNOFILE"]);
        assert_eq!(report.code, Some(code), "{report:#?}");
    }
}

/// A cgroup that counts memory; removed when dropped.
struct Cgroup {
    folder: PathBuf,
    limit: &'static str,
    cached: &'static [&'static str],
    used: &'static str,
}

impl Cgroup {
    fn make() -> Option<Cgroup> {
        let name = format!("cutover-it-doctor-{}", std::process::id());
        let v1 = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes");
        let v2 = ("/sys/fs/cgroup", "memory.max", "memory.current");
        let (top, limit, used) = if Path::new(v1.0).join(v1.1).exists() { v1 } else { v2 };
        let cached: &[&str] = if top == v1.0 {
            &["total_active_file ", "total_inactive_file "]
        } else {
            &["active_file ", "inactive_file "]
        };
        let folder = Path::new(top).join(name);
        std::fs::create_dir(&folder).ok()?;
        let cgroup = Cgroup { folder, limit, cached, used };
        cgroup.folder.join(limit).exists().then_some(cgroup)
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.join(file)).expect("a file of the cgroup")
    }

    fn used(&self) -> u64 {
        let stat = self.read("memory.stat");
        let value = |line: &str| self.cached.iter().find_map(|name| line.strip_prefix(name)?.parse::<u64>().ok());
        let cached: u64 = stat.lines().filter_map(value).sum();
        self.read(self.used).trim().parse::<u64>().expect("a number").saturating_sub(cached)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.folder);
    }
}

#[test]
fn memory_that_does_not_hold_two_generations() {
    let Some(cgroup) = Cgroup::make() else {
        assert!(std::env::var_os("CI").is_none(), "skipped, in CI: no cgroup that counts memory can be made");
        eprintln!("skipped: it needs root, and a cgroup that counts memory");
        return;
    };
    let script =
        format!("echo $$ > {}/cgroup.procs && exec \"$0\" serve --listen 127.0.0.1:0", cgroup.folder.display());
    let server = Start::program("/bin/sh").args(["-c", &script, CUTOVER]).ready();
    for (tenths, level) in [(40, Level::Ok), (16, Level::Problem)] {
        std::fs::write(cgroup.folder.join(cgroup.limit), (cgroup.used() * tenths / 10).to_string()).expect("a limit");
        let report = of(&server).run();
        says(&report, level, "memory", &[&cgroup.folder.display().to_string()]);
    }
}

#[test]
fn a_file_of_a_control_socket_is_left_as_it_is() {
    let server = Start::serve().ready();
    let file = || {
        let sockets = std::fs::read_dir(server.directory().join("run")).expect("a folder");
        sockets.flatten().map(|entry| entry.metadata().expect("there").ino()).collect::<Vec<_>>()
    };
    let before = file();
    of(&server).run();
    assert_eq!(file(), before);
    assert!(!server.log_contains("WARN"), "{}", server.log());
}
