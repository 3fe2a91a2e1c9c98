//! An old generation finishes its connections within its time limits, and exits.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::process::{Instance, Start};
use crate::support::{example, http_get, wait_connections};

const SOON: Duration = Duration::from_secs(10);

/// The `nth` connection of the live generation, with an incomplete request.
fn under_way(server: &Instance, nth: usize) -> TcpStream {
    let mut client = TcpStream::connect(server.addr()).expect("connected");
    client.set_read_timeout(Some(SOON)).expect("set");
    client.write_all(b"GET / HTTP/1.1\r\n").expect("sent");
    wait_connections(server, nth);
    client
}

fn finish(client: &mut TcpStream) -> String {
    client.write_all(b"host: x\r\n\r\n").expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("answered, and closed without a reset");
    answer
}

#[test]
fn a_request_under_way_is_answered_by_the_generation_that_has_it() {
    let server = Start::serve().ready();
    let blue = server.main_pid();
    let mut client = under_way(&server, 1);
    server.reload();
    server.wait_log("draining generation=1 connections=1", SOON);
    assert!(finish(&mut client).contains("generation 1"));
    server.wait_gone(blue, SOON);
}

#[test]
fn an_idle_connection_is_left_alone_for_the_grace() {
    let grace = Duration::from_millis(700);
    let server = Start::serve().args(["--idle-grace", "700ms"]).ready();
    let mut idle = TcpStream::connect(server.addr()).expect("connected");
    idle.set_read_timeout(Some(SOON)).expect("set");
    wait_connections(&server, 1);
    let began = Instant::now();
    server.reload();
    assert_eq!(idle.read(&mut [0]).expect("an end, no reset"), 0);
    assert!(began.elapsed() >= grace, "closed after {:?}", began.elapsed());
    server.wait_gone(server.first_pid(), SOON);
}

#[test]
fn what_is_left_at_the_drain_timeout_is_closed_and_counted() {
    let server = Start::serve().args(["--drain-timeout", "500ms"]).ready();
    let _clients = [under_way(&server, 1), under_way(&server, 2)];
    server.reload();
    server.wait_log("closing the connections that are left generation=1 connections=2", SOON);
    server.wait_gone(server.first_pid(), SOON);
}

#[test]
fn usr2_ends_the_drain_now_sent_to_the_old_generation_or_to_the_new() {
    for to_the_new in [false, true] {
        let server = Start::serve().args(["--drain-timeout", "1h", "--idle-grace", "1h"]).ready();
        let _idle = under_way(&server, 1);
        let green = server.reload();
        server.wait_log("draining generation=1 connections=1", SOON);
        server.wait_notification("generation 2 serves", SOON);
        server.signal(if to_the_new { green } else { server.first_pid() }, Signal::USR2);
        server.wait_gone(server.first_pid(), SOON);
        assert!(http_get(server.addr(), "/").expect("an answer").contains("generation 2"));
    }
}

/// Three old generations may drain at once. The fourth ends the oldest, and all others go on.
#[test]
fn a_fourth_draining_generation_ends_the_oldest() {
    let server = Start::serve().args(["--drain-timeout", "1h"]).ready();
    let mut clients = Vec::new();
    for generation in 1..=4 {
        clients.push(under_way(&server, 1));
        server.reload();
        server.wait_log(&format!("draining generation={generation} connections=1"), SOON);
        server.wait_notification(&format!("generation {} serves", generation + 1), SOON);
    }
    server.wait_log("3 generations drain already, ending the oldest generation=1", SOON);
    server.wait_gone(server.first_pid(), SOON);
    for (client, generation) in clients.iter_mut().zip(1..).skip(1) {
        assert!(finish(client).contains(&format!("generation {generation}\n")));
    }
}

#[test]
fn a_pid_file_always_names_the_live_generation() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("server.pid");
    let server = Start::serve().arg("--pid-file").arg(&path).ready();
    let named = || std::fs::read_to_string(&path).expect("never missing").trim().parse::<u32>().expect("never half");
    assert_eq!(named(), server.first_pid());
    for _ in 0..5 {
        let green = server.reload();
        // The PID file is written before MAINPID is sent, so that a manager which reads the file then finds the new
        // process.
        assert_eq!(named(), green);
    }
    server.signal(server.main_pid(), Signal::TERM);
    server.wait_gone(server.main_pid(), SOON);
    assert!(!path.exists(), "a stopped server leaves no PID file");
}

/// Plain TCP: existing streams stay, and new ones come to the new generation.
#[test]
fn a_tcp_stream_counts_until_it_is_dropped() {
    let (server, address) = example("echo", &[]);
    let mut old = TcpStream::connect(address).expect("connected");
    old.set_read_timeout(Some(SOON)).expect("set");
    echo(&mut old);
    server.reload();
    let mut new = TcpStream::connect(address).expect("connected");
    echo(&mut new);
    for _ in 0..3 {
        echo(&mut old);
    }
    assert!(server.pids().contains(&server.first_pid()), "it has a stream left");
    drop(old);
    server.wait_gone(server.first_pid(), SOON);
    echo(&mut new);
}

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"hello").expect("sent");
    let mut back = [0; 5];
    stream.read_exact(&mut back).expect("echoed");
    assert_eq!(&back, b"hello");
}

#[test]
fn the_axum_example_answers_from_a_new_process_after_a_reload() {
    let (server, address) = example("axum", &[]);
    for _ in 0..3 {
        let green = server.reload();
        assert!(http_get(address, "/").expect("an answer").contains(&format!("hello from pid {green}")));
    }
}

#[test]
fn the_application_has_a_say_in_a_reload_and_hears_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = folder.path().join("settings");
    let (server, address) = example("hooks", &[settings.to_str().expect("text")]);
    server.wait_log(&format!("begin generation=1 pid={}", server.first_pid()), SOON);
    server.hup();
    server.wait_log("reload RolledBack", SOON);
    std::fs::write(&settings, "broken").expect("written");
    let mark = server.mark();
    server.hup();
    let line = server.wait_log_after(mark, "reload RolledBack", SOON);
    assert!(line.contains("was refused by the application") && line.contains("is not ok"), "{line}");
    std::fs::write(&settings, "ok").expect("written");
    let mut asking = TcpStream::connect(address).expect("connected");
    asking.write_all(b"POST /reload HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    server.wait_log("reload Done", SOON);
    for phase in ["preflight", "starting", "verifying", "cutting over", "retiring"] {
        server.wait_log(&format!("phase {phase}"), SOON);
    }
    server.wait_log("begin generation=4", SOON);
}
