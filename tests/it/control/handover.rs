//! The control socket passes to the next generation: the socket never vanishes, whichever process is killed.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::{SOON, kept};
use crate::support::deployed::{Deployed, GREEN};
use crate::support::process::{Instance, Start};
use crate::support::raw_control::Raw;

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// Sends requests without a pause, and counts the answers by kind.
fn ask_until(stop: &AtomicBool, control: &Raw) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    while !stop.load(Relaxed) {
        let what = match control.try_ask("GET", "/v1/status") {
            Ok(answer) if answer.status == 503 && answer.body.contains("ask again") => "503 ask again".to_owned(),
            Ok(answer) => answer.status.to_string(),
            Err(error) => format!("{:?}: {error}", error.kind()),
        };
        *counts.entry(what).or_default() += 1;
    }
    counts
}

/// Checks far more often than a client can ask: the number of checks, and of those that found no file.
fn look_until(stop: &AtomicBool, path: &Path) -> (usize, usize) {
    let (mut looks, mut missing) = (0, 0);
    while !stop.load(Relaxed) {
        looks += 1;
        missing += usize::from(std::fs::symlink_metadata(path).is_err());
    }
    (looks, missing)
}

#[test]
fn it_never_vanishes_over_thirty_reloads() {
    let server = Start::serve().ready();
    let control = Raw::of(&server);
    let folder = control.path().parent().expect("a folder");
    let name = format!("{}.sock", server.addr());
    let stop = AtomicBool::new(false);
    let (counts, (looks, missing)) = std::thread::scope(|scope| {
        let looking = scope.spawn(|| look_until(&stop, control.path()));
        let asking: Vec<_> = (0..2).map(|_| scope.spawn(|| ask_until(&stop, &control))).collect();
        let end = Stop(&stop);
        for generation in 2..=31 {
            let outcome = control.reload().done();
            assert_eq!(outcome["generation"], generation);
            let status = control.status();
            assert_eq!(status["generations"][0]["pid"], outcome["pid"], "the very next one is answered by the new one");
            let mode = std::fs::metadata(control.path()).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert_eq!(names_in(folder), [name.as_str()], "no temporary file");
        }
        drop(end);
        let counts = asking.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>();
        (counts, looking.join().expect("no panic"))
    });
    println!("answers over 30 reloads: {counts:?}; {looks} looks");
    assert_eq!(missing, 0, "of {looks} looks there was no file");
    for (what, count) in counts.iter().flatten() {
        assert!(["200", "503 ask again"].contains(&what.as_str()), "{count} of {what}: {counts:?}");
    }
    assert!(counts.iter().all(|one| one.get("200").is_some_and(|answered| *answered > 30)), "{counts:?}");
    assert_eq!(control.ask("POST", "/v1/stop").status, 202);
    server.wait_log("gone generation=31", SOON);
    assert_eq!(names_in(folder), Vec::<String>::new());
}

/// Sets the flag when the test panics too: otherwise the threads would run for ever.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Green is live but frozen: until green takes over the control socket, blue answers there, though blue has finished
/// draining.
#[test]
fn it_does_not_vanish_while_green_takes_its_time() {
    let server = Start::serve().args(["--soak", "1h"]).ready();
    let control = Raw::of(&server);
    let mut following = control.reload();
    following.until(|line| line["event"] == "soak");
    let green = green_of(&control);
    server.freeze(green);
    assert_eq!(control.ask("POST", "/v1/promote").status, 202);
    server.wait_log("from=draining to=gone", SOON);
    // Blue waits ten seconds for green, and part of that time has passed.
    for _ in 0..5 {
        control.ask("GET", "/v1/status").refuses(503, &["ask again"]);
    }
    server.signal(green, Signal::CONT);
    assert_eq!(following.done()["generation"], 2);
    assert_eq!(control.status()["generations"][0]["pid"], green);
}

/// A client that connects to blue before blue exits is answered, if only with "ask again", however late the client
/// asks.
#[test]
fn who_has_connected_is_answered_though_blue_goes() {
    use std::io::Write as _;
    let server = Start::serve().ready();
    let control = Raw::of(&server);
    for _ in 0..5 {
        let pid = u32::try_from(control.status()["generations"][0]["pid"].as_u64().expect("a pid")).expect("a pid");
        let mut early = control.connect().expect("connected");
        // As with a client that has connected and gets no processor time for a while.
        control.reload().done();
        server.wait_log(&format!("pid={pid} from=draining to=gone"), SOON);
        let asked = early.write_all(crate::support::raw_control::request("GET", "/v1/status").as_bytes());
        asked.expect("it is still there");
        let answer = crate::support::raw_control::read_answer(&mut io::BufReader::new(early)).expect("an answer");
        answer.refuses(503, &["ask again"]);
        server.wait_gone(pid, SOON);
    }
}

fn kill(server: &Instance, pid: u32) {
    server.signal(pid, Signal::KILL);
    server.wait_gone(pid, SOON);
}

/// Asserts that the next generation has the control socket and serves alone.
fn takes_over(server: &Instance, control: &Raw, pid: u32) {
    server.wait_log("live generation=2", SOON);
    let deadline = Instant::now() + SOON;
    // Green detects the end of blue a moment later than this test does.
    let status = loop {
        let status = control.status();
        if status["generations"].as_array().is_some_and(|all| all.len() == 1) {
            break status;
        }
        assert!(Instant::now() < deadline, "{status}");
    };
    let generations = &status["generations"];
    assert_eq!((&generations[0]["generation"], &generations[0]["pid"]), (&json!(2), &json!(pid)));
    assert_eq!((&generations[0]["phase"], &generations[0]["share"]), (&json!("serving"), &json!(100.0)));
    assert_eq!(names_in(control.path().parent().expect("a folder")).len(), 1);
}

fn green_of(control: &Raw) -> u32 {
    let status = control.status();
    assert_eq!(status["generations"][0]["generation"], 2, "{status}");
    u32::try_from(status["generations"][0]["pid"].as_u64().expect("a pid")).expect("a pid")
}

#[test]
fn blue_killed_while_green_starts_leaves_it_the_socket() {
    let deployed = Deployed::new();
    let server = deployed.start("slow").ready();
    let control = Raw::of(&server);
    deployed.put(GREEN);
    let _following = control.reload();
    server.wait_log(" spawned generation=2 ", SOON);
    let green = green_of(&control);
    kill(&server, server.first_pid());
    // No generation is live yet. A killed process closes its sockets when the last of its threads has ended.
    let deadline = Instant::now() + SOON;
    while control.connect().is_ok() {
        assert!(Instant::now() < deadline, "who is that?");
    }
    assert_eq!(control.connect().expect_err("nobody").kind(), io::ErrorKind::ConnectionRefused);
    std::fs::write(deployed.out(), "go on").expect("green may go on");
    takes_over(&server, &control, green);
    deployed.put_real();
    assert_eq!(control.reload().done()["generation"], 3);
}

#[test]
fn blue_killed_in_canary_and_in_soak_leaves_green_the_socket() {
    for (event, options) in [("canary", ["--canary", "50%:1h"]), ("soak", ["--soak", "1h"])] {
        let server = Start::serve().args(options).ready();
        let control = Raw::of(&server);
        let mut following = control.reload();
        following.until(|line| line["event"] == event);
        let green = green_of(&control);
        kill(&server, server.first_pid());
        takes_over(&server, &control, green);
        control.reload().until(|line| line["event"] == event);
    }
}

#[test]
fn blue_killed_while_it_drains_leaves_the_socket_where_it_is() {
    let server = Start::serve().ready();
    let control = Raw::of(&server);
    let _held = kept(server.addr());
    let green = control.reload().done()["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
    kill(&server, server.first_pid());
    takes_over(&server, &control, green);
    assert_eq!(control.reload().done()["generation"], 3);
}

/// Blue is killed at increasing delays after the request.
#[test]
fn blue_killed_at_any_time_leaves_somebody_the_socket() {
    let mut took_over = 0;
    for delay in (0..20).map(|step| Duration::from_millis(step * 4)) {
        let server = Start::serve().ready();
        let control = Raw::of(&server);
        let following = control.reload();
        // The delay is the quantity under test, not a synchronisation.
        std::thread::sleep(delay);
        server.signal(server.first_pid(), Signal::KILL);
        server.wait_gone(server.first_pid(), SOON);
        drop(following);
        if server.pids().is_empty() {
            // Blue was killed before the next generation existed: no process is left.
            continue;
        }
        server.wait_log("live generation=2", SOON);
        let began = Instant::now();
        let status = control.status();
        assert_eq!(status["generations"][0]["generation"], 2, "killed after {delay:?}: {status}");
        assert!(began.elapsed() < Duration::from_secs(1));
        assert_eq!(control.reload().done()["generation"], 3, "killed after {delay:?}");
        took_over += 1;
    }
    assert!(took_over > 0, "blue was always killed before there was a next one");
}
