//! The names of instances, and the files of their control sockets.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::SOON;
use crate::support::http_get;
use crate::support::load::{Mode, Plan};
use crate::support::process::{Instance, Start};
use crate::support::raw_control::Raw;

/// A second instance with the same folder for control sockets.
fn beside(other: &Instance) -> Start {
    Start::serve().env("RUNTIME_DIRECTORY", other.directory().join("run"))
}

fn in_folder(folder: &Path) -> Start {
    Start::serve().env("RUNTIME_DIRECTORY", folder)
}

fn pid_of(status: &Value) -> Option<u64> {
    status["generations"][0]["pid"].as_u64()
}

#[test]
fn the_file_of_a_killed_instance_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("web.sock");
    for _ in 0..3 {
        let server = in_folder(folder.path()).args(["--name", "web"]).ready();
        assert_eq!(pid_of(&Raw::at(&path).status()), Some(server.first_pid().into()));
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 1);
        server.signal(server.first_pid(), Signal::KILL);
        server.wait_gone(server.first_pid(), SOON);
        assert!(std::fs::symlink_metadata(&path).expect("left over").file_type().is_socket());
    }
    // Other kinds of files at this path.
    for make in [(|path| std::fs::write(path, "text")) as fn(&Path) -> std::io::Result<()>, |path| {
        std::os::unix::fs::symlink("/nowhere", path)
    }] {
        std::fs::remove_file(&path).expect("it was there");
        make(&path).expect("made");
        let server = in_folder(folder.path()).args(["--name", "web"]).ready();
        assert_eq!(pid_of(&Raw::at(&path).status()), Some(server.first_pid().into()));
        server.signal(server.first_pid(), Signal::KILL);
        server.wait_gone(server.first_pid(), SOON);
    }
}

#[test]
fn a_second_one_by_the_same_name_is_refused_and_takes_nothing_from_the_first() {
    let first = Start::serve().args(["--name", "web"]).ready();
    let control = Raw::named(&first, "web");
    let load = Plan::new([first.addr()], 8, Mode::Close).start();
    load.wait_answered(50, SOON);
    for reload in [false, true] {
        if reload {
            control.reload().done();
        }
        let live = pid_of(&control.status()).expect("a pid");
        for _ in 0..5 {
            let second = beside(&first).args(["--name", "web"]).spawn();
            assert_eq!(second.wait_exit(SOON).code(), Some(1));
            let line = second.wait_log("cannot begin", SOON);
            for word in ["an instance with the name web runs already", &format!("(pid {live})"), "web.sock"] {
                assert!(line.contains(word), "`{word}` is not in: {line}");
            }
            assert!(!second.log_contains("listening"), "{}", second.log());
            assert_eq!(pid_of(&control.status()), Some(live));
        }
        load.wait_answered(50, SOON);
    }
    let report = load.stop();
    report.assert_nothing_lost();
    assert_eq!(report.pids.len(), 2, "the two generations of the first: {report}");
}

#[test]
fn of_two_that_start_at_once_by_one_name_one_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    for _ in 0..10 {
        let both = [0, 1].map(|_| in_folder(folder.path()).args(["--name", "web"]).spawn());
        let refused = |one: &Instance| one.log_contains("runs already");
        let deadline = std::time::Instant::now() + SOON;
        while both.iter().filter(|one| one.log_contains(" live ") || refused(one)).count() < 2 {
            assert!(std::time::Instant::now() < deadline, "{}{}", both[0].log(), both[1].log());
            std::thread::yield_now();
        }
        assert_eq!(both.iter().filter(|one| refused(one)).count(), 1, "{}{}", both[0].log(), both[1].log());
        let serving = both.iter().find(|one| !refused(one)).expect("one");
        let status = Raw::at(folder.path().join("web.sock")).status();
        assert_eq!(pid_of(&status), Some(serving.first_pid().into()));
        assert!(http_get(serving.addr(), "/").is_ok());
    }
}

#[test]
fn two_without_a_name_live_side_by_side() {
    let first = Start::serve().ready();
    let second = beside(&first).ready();
    let folder = first.directory().join("run");
    for server in [&first, &second] {
        let control = Raw::at(folder.join(format!("{}.sock", server.addr())));
        let outcome = control.reload().done();
        assert_eq!(control.status()["generations"][0]["pid"], outcome["pid"]);
        assert_eq!(control.status()["name"], server.addr().to_string());
    }
    assert_eq!(std::fs::read_dir(folder).expect("the folder").count(), 2);
}

#[test]
fn a_bad_name_is_refused() {
    let long = "n".repeat(65);
    for name in ["", ".", "..", ".hidden", "../web", "a/b", "a b", "a\nb", "ä", &long] {
        for more in [&[][..], &["--no-control"]] {
            let server = Start::serve().args(["--name", name]).args(more).spawn();
            assert_eq!(server.wait_exit(SOON).code(), Some(1), "{name:?}");
            let line = server.wait_log("cannot begin", SOON);
            assert!(line.contains("cannot be the name of an instance: it must be 1 to 64 of"), "{line}");
            assert!(!server.log_contains("listening"), "{}", server.log());
            assert!(!server.directory().join("run").exists(), "{name:?}");
        }
    }
}

/// Asserts that the server serves, and reloads on a signal.
fn works_on_without(server: &Instance, folder: &Path, warning: &str) {
    let line = server.wait_log("no control socket; signals still work", SOON);
    assert!(line.contains(warning) && line.contains("WARN"), "`{warning}` is not in: {line}");
    server.reload();
    server.wait_log("generation 2 is live", SOON);
    assert!(http_get(server.addr(), "/").expect("an answer").contains("generation 2"));
    assert!(!folder.exists() || std::fs::read_dir(folder).expect("the folder").count() == 0);
}

#[test]
fn where_no_socket_can_be_it_is_said_and_the_server_works_on() {
    let place = tempfile::tempdir().expect("a folder");
    let long = place.path().join("x".repeat(60)).join("y".repeat(60));
    for name in [&[][..], &["--name", "web"]] {
        works_on_without(&in_folder(&long).args(name).ready(), &long, "too long for a socket");
        // Root cannot create a file there either.
        let unwritable = Path::new("/proc/cutover");
        works_on_without(&in_folder(unwritable).args(name).ready(), unwritable, "/proc/cutover");
        std::fs::write(place.path().join("file"), "").expect("written");
        let below = place.path().join("file/run");
        works_on_without(&in_folder(&below).args(name).ready(), &below, "file/run");
    }
}

#[test]
fn who_wants_none_gets_none() {
    let server = Start::serve().args(["--name", "web", "--no-control"]).ready();
    server.reload();
    server.wait_log("generation 2 is live", Duration::from_secs(10));
    assert!(!server.directory().join("run").exists());
    assert!(!server.log_contains("no control socket"), "it was asked for: {}", server.log());
}
