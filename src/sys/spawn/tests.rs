use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::LazyLock;

use super::*;
use crate::sys::reexec::{reexec, role, run_again};

const HUP_ONLY: &str = "0000000000000001";
const NONE: &str = "0000000000000000";

/// Asserts that the process has exactly these signals blocked, ignores those that this process ignored at its
/// start but for SIGPIPE, and has three descriptors.
#[track_caller]
fn assert_clean(pid: Pid, blocked: &str) {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    // Until the process sleeps, it may still be loading its libraries through a descriptor of its own.
    while !std::fs::read_to_string(proc.join("wchan")).expect("alive").contains("nanosleep") {
        std::thread::yield_now();
    }
    let fds = std::fs::read_dir(proc.join("fd")).expect("alive").count();
    let status = std::fs::read_to_string(proc.join("status")).expect("alive");
    assert_eq!(fds, 3);
    assert!(status.contains(&format!("SigBlk:\t{blocked}\n")), "{status}");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).expect("a line");
    let ignored = u64::from_str_radix(ignored, 16).expect("hexadecimal");
    // Signals 32 and 33 belong to the C library, and cannot be set.
    for signal in (1..=64).filter(|signal| ![32, 33].contains(signal)) {
        assert_eq!(ignored & 1 << (signal - 1) != 0, Attributes::capture().ignores(signal), "signal {signal}");
    }
    assert_eq!(std::fs::read_link(proc.join("cwd")).expect("alive"), Path::new("/"));
    let environment = std::fs::read(proc.join("environ")).expect("alive");
    assert_eq!(environment, b"KEPT=1\0ADDED=2\0");
}

fn sleeper() -> Launch {
    Launch {
        environment: vec![("KEPT".into(), "1".into()), ("REMOVED".into(), "1".into())],
        ..Launch::of(["sleep", "60"])
    }
}

fn spawn_sleeper(path: &str, manager: Option<Pid>) -> io::Result<Process> {
    let inherited = std::fs::File::open("/dev/null").expect("a descriptor");
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).expect("without close-on-exec");
    spawn(&sleeper(), Path::new(path), &["REMOVED"], &[("ADDED", "2".into())], manager)
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).expect("a line");
    line.parse().ok().map(Pid::new)
}

#[test]
fn a_child_has_three_descriptors_and_no_blocked_signal_but_hup() {
    let process = spawn_sleeper("/bin/sleep", None).expect("spawns");
    assert_clean(process.pid, HUP_ONLY);
    assert_eq!(parent_of(process.pid), Some(Pid::new(std::process::id())));
    assert_eq!(kill_and_reap(&process), "was killed by SIGKILL (9)");
}

fn kill_and_reap(process: &Process) -> String {
    process.kill();
    loop {
        match process.reap().expect("ours") {
            Some(how) => break how,
            None => std::thread::yield_now(),
        }
    }
}

#[test]
fn a_sibling_is_as_clean_and_the_parents_to_reap() {
    let in_role = |role| reexec(a_sibling_is_as_clean_and_the_parents_to_reap, role).spawn().expect("spawns");
    match role().as_deref() {
        None => assert!(in_role("reaper").wait().expect("ours").success()),
        // This process runs only this test, so it may wait for any of its children.
        Some("reaper") => reap_all(rustix::process::Pid::from_child(&in_role("sibling"))),
        Some(_) => in_a_process_that_may_have_siblings(),
    }
}

/// Reaps all children of this process, in the order that wait(2) chooses: `child` waits for the ends of the others.
fn reap_all(child: rustix::process::Pid) {
    let mut of_others = Vec::new();
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => assert_eq!(status.exit_status(), Some(0)),
            Ok(Some((_, status))) => of_others.push(status),
            Ok(None) => unreachable!("without WNOHANG wait(2) waits"),
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::CHILD);
                break;
            }
        }
    }
    assert_eq!(of_others.len(), 2, "one that slept, and one that could not begin: {of_others:?}");
}

fn in_a_process_that_may_have_siblings() {
    let manager = parent();
    let process = spawn_sleeper("/bin/sleep", manager).expect("spawns");
    assert_clean(process.pid, HUP_ONLY);
    assert_eq!(parent_of(process.pid), manager);
    let missing = spawn_sleeper("/no/such/program", manager).expect_err("there is none");
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    assert!(missing.to_string().contains("/no/such/program"), "{missing}");
    process.kill();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let how = runtime.block_on(async {
        process.gone().await;
        assert_eq!(process.reap().map_err(|e| e.raw_os_error()), Err(Some(libc::ECHILD)));
        process.told_end().await
    });
    let release = crate::sys::sysctl::release();
    let release: Vec<u32> = release.split(['.', '-']).map_while(|n| n.parse().ok()).collect();
    match release >= vec![6, 15] {
        true => assert_eq!(how, "was killed by SIGKILL (9)"),
        false => assert_eq!(how, "ended"),
    }
}

#[test]
fn the_child_of_another_is_never_spawned_for_a_manager_that_is_not_the_parent() {
    let process = spawn_sleeper("/bin/sleep", Some(Pid::new(u32::MAX))).expect("spawns");
    assert_eq!(parent_of(process.pid), Some(Pid::new(std::process::id())));
    kill_and_reap(&process);
}

fn supervised<'a>(path: &'a str, arguments: &'a [OsString], group: Group) -> Program<'a> {
    static ATTRIBUTES: LazyLock<Attributes> = LazyLock::new(Attributes::capture);
    let environment = vec![("KEPT".into(), "1".into()), ("ADDED".into(), "2".into())];
    Program {
        path: Path::new(path),
        arguments,
        environment,
        directory: Some(Path::new("/")),
        attributes: &ATTRIBUTES,
        group,
        listeners: &[],
    }
}

/// The listeners may have any numbers, also those that others of them are to have.
#[test]
fn listeners_are_passed_as_a_service_manager_passes_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| OwnedFd::from(std::fs::File::create(folder.path().join(name)).expect("made"));
    let listeners = [file("a"), file("b"), file("c")];
    let script = "for fd in 3 4 5; do readlink /proc/$$/fd/$fd; done; ls /proc/$$/fd; \
        echo $LISTEN_FDS; [ $LISTEN_PID = $$ ] && echo own; sleep 60";
    let (out, said) = (folder.path().join("out"), folder.path().join("done"));
    let script = format!("{{ {script} ; }} > {}", out.display()).replace("sleep 60", &format!("> {}", said.display()));
    for turned in [false, true] {
        let mut passed: Vec<OwnedFd> = listeners.iter().map(|fd| fd.try_clone().expect("copied")).collect();
        if turned {
            passed.reverse();
        }
        let arguments = ["sh".into(), "-c".into(), script.clone().into()];
        let process = program(&Program { listeners: &passed, ..supervised("/bin/sh", &arguments, Group::Own) });
        process.expect("spawns").wait();
        assert!(said.exists());
        std::fs::remove_file(&said).expect("there");
        let text = std::fs::read_to_string(&out).expect("written");
        let names: Vec<_> = text.lines().take(3).map(|line| line.rsplit('/').next().expect("a name")).collect();
        assert_eq!(names, if turned { ["c", "b", "a"] } else { ["a", "b", "c"] });
        assert!(text.ends_with("3\nown\n"), "{text}");
        assert!(!text.lines().any(|line| line == "6"), "{text}");
    }
}

#[test]
fn a_supervised_program_has_three_descriptors_no_blocked_signal_and_the_group_that_is_asked_for() {
    let inherited = std::fs::File::open("/dev/null").expect("a descriptor");
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).expect("without close-on-exec");
    for group in [Group::Own, Group::Ours] {
        // argv 0 is the name that the program is called by, not the path.
        let process = program(&supervised("/bin/sleep", &["a name".into(), "60".into()], group)).expect("spawns");
        assert_clean(process.pid, NONE);
        let command = std::fs::read(format!("/proc/{}/cmdline", process.pid)).expect("alive");
        assert_eq!(command, b"a name\x0060\0");
        let of = rustix::process::getpgid(pid_of(&process)).expect("alive");
        match group {
            Group::Own => assert_eq!(Some(of), pid_of(&process)),
            Group::Ours => assert_eq!(of, rustix::process::getpgrp()),
        }
        assert_eq!(kill_and_reap(&process), "was killed by SIGKILL (9)");
    }
}

fn pid_of(process: &Process) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(i32::try_from(process.pid.number()).expect("a pid"))
}

#[test]
fn a_program_that_is_missing_is_told_from_one_that_may_not_be_executed() {
    let folder = tempfile::tempdir().expect("a folder");
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "text").expect("write");
    let plain = plain.to_str().expect("UTF-8");
    for (path, kind) in [("/no/such/program", io::ErrorKind::NotFound), (plain, io::ErrorKind::PermissionDenied)] {
        let error = program(&supervised(path, &[path.into()], Group::Own)).expect_err(path);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(path), "{error}");
    }
    let nowhere = Program { directory: Some(Path::new("/no/such/folder")), ..supervised("/bin/true", &[], Group::Own) };
    let error = program(&nowhere).expect_err("there is no such directory");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("/no/such/folder"), "{error}");
}

#[test]
fn descriptors_are_closed_one_by_one_where_close_range_is_refused() {
    let inherited = std::fs::File::open("/dev/null").expect("a descriptor");
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).expect("without close-on-exec");
    let (launch, mask) = (sleeper(), Signals::only(libc::SIGHUP));
    let image = Image::of(&launch, Path::new("/bin/sleep"), &["REMOVED"], &[("ADDED", "2".into())]).expect("no NUL");
    let descriptors = Descriptors::listed().expect("/proc");
    let birth =
        Birth { image: &image, attributes: &launch.attributes, mask, group: Group::Ours, descriptors, listeners: &[] };
    let process = clone::spawn(&birth, ChildOf::ThisProcess).expect("spawns");
    assert_clean(process.pid, HUP_ONLY);
    kill_and_reap(&process);
}

#[test]
fn what_is_too_large_for_exec_is_named() {
    let (path, arguments) = ("/bin/true", ["true".into()]);
    let large = |sizes: &[usize]| {
        let variables =
            sizes.iter().enumerate().map(|(n, size)| (format!("LARGE{n}").into(), "x".repeat(*size).into()));
        let environment = variables.collect();
        let error =
            program(&Program { environment, ..supervised(path, &arguments, Group::Own) }).expect_err("too large");
        assert_eq!(error.kind(), io::ErrorKind::ArgumentListTooLong, "{error}");
        error.to_string()
    };
    let pages = 32 * rustix::param::page_size();
    let error = large(&[10, pages]);
    let words =
        format!("execute /bin/true: Argument list too long (os error 7): the variable LARGE1 has {}", pages + 8);
    assert!(error.starts_with(&words), "{error}");
    // The kernel allows 6 MiB at most, whatever the limit of the stack.
    let error = large(&vec![100_000; 70]);
    assert!(error.contains("70 environment variables have ") && error.contains("both together may have "), "{error}");
}

#[test]
fn a_process_that_has_left_its_group_spawns_into_the_group_of_its_start() {
    if role().is_none() {
        return run_again(a_process_that_has_left_its_group_spawns_into_the_group_of_its_start, "leaves");
    }
    let (launch, group) = (sleeper(), rustix::process::getpgrp());
    rustix::process::setpgid(None, None).expect("no leader of a session");
    assert_ne!(rustix::process::getpgrp(), group);
    let process = spawn(&launch, Path::new("/bin/sleep"), &[], &[], None).expect("spawns");
    assert_eq!(rustix::process::getpgid(pid_of(&process)), Ok(group));
    kill_and_reap(&process);
}
