//! Clients of other projects: `ab -k`, which speaks HTTP/1.0, and `nc -N`, which shuts its writing side down.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::process::{Instance, Start};
use crate::support::skip;

const SOON: Duration = Duration::from_secs(20);
const PAGE: &str = "the same page from each generation\n";

/// A server of one file. The caller must keep the folder.
fn server() -> (Instance, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("page"), PAGE).expect("written");
    (Start::serve().arg(folder.path()).ready(), folder)
}

/// Whether the program exists; if not, the test is reported as skipped.
fn is_there(program: &str) -> bool {
    let there = Command::new(program).arg("-h").stdin(Stdio::null()).output().is_ok();
    if !there {
        skip(&format!("there is no {program}"));
    }
    there
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// The number after this name in the report of ab.
fn reported(report: &str, name: &str) -> u64 {
    let line = report.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[test]
fn ab_with_keep_alive_loses_nothing_over_reloads() {
    // The time limits the run, so that a fast machine does not end before the reloads. The number is only an upper
    // limit, and comes last, because `-t` sets it anew.
    const SECONDS: &str = "5";
    const NO_LIMIT: &str = "5000000";
    const RELOADS: u64 = 10;
    if !is_there("ab") {
        return;
    }
    let (server, _folder) = server();
    let mut ab = Command::new("ab");
    ab.args(["-k", "-q", "-c", "8", "-t", SECONDS, "-n", NO_LIMIT]).arg(format!("http://{}/page", server.addr()));
    let mut ab = ab.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let mut reloads = 0;
    // Reloads only while ab runs: a reload after its end would show nothing.
    while ab.try_wait().expect("a child").is_none() {
        server.reload();
        reloads += 1;
    }
    assert!(reloads > RELOADS, "it had ended after {reloads} reloads");
    let output = ab.wait_with_output().expect("ended");
    let report = text(&output);
    assert!(output.status.success(), "{report}");
    assert_eq!(reported(&report, "Failed requests:"), 0, "{report}");
    // Each reload ends the kept connections, and nothing else ends them.
    let (complete, kept) = (reported(&report, "Complete requests:"), reported(&report, "Keep-Alive requests:"));
    assert!(kept < complete && kept >= complete.saturating_sub((reloads + 1) * 8), "{report}");
    assert!(!server.log_contains("not steered") && server.wait_log("live generation=11", SOON).contains("live"));
}

#[test]
fn nc_that_has_said_all_gets_its_answer() {
    const TIMES: usize = 50;
    if !is_there("nc.openbsd") {
        return;
    }
    let (server, _folder) = server();
    let mut answers = 0;
    let ended = AtomicBool::new(false);
    let reloads = std::thread::scope(|scope| {
        // The reloads run concurrently, so that each moment of a reload meets a client.
        let reloads = scope.spawn(|| {
            let mut reloads = 0;
            while !ended.load(Ordering::Relaxed) {
                server.reload();
                reloads += 1;
            }
            reloads
        });
        for _ in 0..TIMES {
            let mut nc = Command::new("nc.openbsd");
            nc.args(["-N", "-w", "10", &server.addr().ip().to_string(), &server.addr().port().to_string()]);
            let mut nc =
                nc.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
            // The end of the input makes nc shut its writing side down.
            let mut input = nc.stdin.take().expect("piped");
            input.write_all(b"GET /page HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
            drop(input);
            answers += usize::from(text(&nc.wait_with_output().expect("ended")).ends_with(PAGE));
        }
        ended.store(true, Ordering::Relaxed);
        reloads.join().expect("reloads")
    });
    assert_eq!(answers, TIMES);
    assert!(reloads > 1, "{reloads}");
}
