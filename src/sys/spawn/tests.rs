use std::path::PathBuf;
use std::process::Command;

use super::*;

/// What has no blocked signal but HUP, nothing ignored, and three descriptors.
#[track_caller]
fn assert_clean(pid: Pid) {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    // Until it sleeps it may still be loading its libraries, by a descriptor of its own.
    while !std::fs::read_to_string(proc.join("wchan")).expect("alive").contains("nanosleep") {
        std::thread::yield_now();
    }
    let fds = std::fs::read_dir(proc.join("fd")).expect("alive").count();
    let status = std::fs::read_to_string(proc.join("status")).expect("alive");
    assert_eq!(fds, 3);
    assert!(status.contains("SigBlk:\t0000000000000001"), "{status}");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).expect("a line");
    // Signals 32 and 33 are the C library's own, and cannot be set.
    assert_eq!(u64::from_str_radix(ignored, 16).expect("hexadecimal") & !(0b11 << 31), 0, "{ignored}");
    assert_eq!(std::fs::read_link(proc.join("cwd")).expect("alive"), Path::new("/"));
    let environment = std::fs::read(proc.join("environ")).expect("alive");
    assert_eq!(environment, b"KEPT=1\0ADDED=2\0");
}

fn sleeper() -> Origin {
    Origin {
        arguments: vec!["sleep".into(), "60".into()],
        environment: vec![("KEPT".into(), "1".into()), ("REMOVED".into(), "1".into())],
        directory: Some("/".into()),
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
    assert_clean(process.pid);
    assert_eq!(parent_of(process.pid), Some(Pid::new(std::process::id())));
    process.kill();
    let how = loop {
        match process.reap().expect("ours") {
            Some(how) => break how,
            None => std::thread::yield_now(),
        }
    };
    assert_eq!(how, "was killed by SIGKILL (9)");
}

/// This test again, in a process of its own that may wait for whatever is its child, or in a child of that.
const AGAIN: &str = "CUTOVER_TEST_OF_SIBLINGS";

#[test]
fn a_sibling_is_as_clean_and_the_parents_to_reap() {
    let name = "sys::spawn::tests::a_sibling_is_as_clean_and_the_parents_to_reap";
    let again = |role| {
        let mut command = Command::new(std::env::current_exe().expect("a file"));
        command.args([name, "--exact", "--nocapture"]).env(AGAIN, role).spawn().expect("spawns")
    };
    match std::env::var(AGAIN).as_deref() {
        Err(_) => assert!(again("reaper").wait().expect("ours").success()),
        Ok("reaper") => reap_all(rustix::process::Pid::from_child(&again("sibling"))),
        Ok(_) => in_a_process_that_may_have_siblings(),
    }
}

/// Everything that is ours to reap, until `child` has ended: it waits for what we reap.
fn reap_all(child: rustix::process::Pid) {
    let mut of_others = Vec::new();
    loop {
        let (pid, status) =
            rustix::process::wait(rustix::process::WaitOptions::empty()).expect("a child").expect("one");
        if pid == child {
            assert_eq!(status.exit_status(), Some(0));
            break;
        }
        of_others.push(status);
    }
    assert_eq!(of_others.len(), 2, "one that slept, and one that could not begin: {of_others:?}");
}

fn in_a_process_that_may_have_siblings() {
    let manager = parent();
    let process = spawn_sleeper("/bin/sleep", manager).expect("spawns");
    assert_clean(process.pid);
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
    let release = crate::sys::kernel::release();
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
    process.kill();
    while process.reap().expect("ours").is_none() {
        std::thread::yield_now();
    }
}
