//! Without free descriptors the server does not spin and loses nothing, and works again when there are some.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::http_get;
use crate::support::process::{Instance, Start};

const SOON: Duration = Duration::from_secs(10);
const MORE: u64 = 1024;

/// Leaves room for this many more descriptors than the process has now.
fn leave_room_for(server: &Instance, more: u64) {
    let pid = server.main_pid();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count() as u64;
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    let limit = Rlimit { current: Some(open + more), maximum: prlimit_maximum(pid) };
    prlimit(Some(pid), Resource::Nofile, limit).expect("set");
}

fn prlimit_maximum(pid: Pid) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_pid())).expect("the process lives");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    line.split_whitespace().nth(4).and_then(|hard| hard.parse().ok())
}

/// User and system time of the process so far.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks: u64 = [fields[11], fields[12]].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    // USER_HZ is 100 on every current Linux (sysconf(_SC_CLK_TCK)).
    Duration::from_millis(ticks * 10)
}

#[test]
fn accept_waits_and_does_not_spin_when_there_is_no_descriptor() {
    let server = Start::serve().ready();
    http_get(server.addr(), "/").expect("an answer");
    leave_room_for(&server, 4);
    let mut clients: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(server.addr()).expect("queued")).collect();
    server.wait_log("cannot accept connections, trying again", SOON);
    let (before, began) = (processor_time(server.main_pid()), Instant::now());
    // The processor time used in one second is the quantity under test.
    std::thread::sleep(Duration::from_secs(1));
    let used = processor_time(server.main_pid()) - before;
    assert!(used < began.elapsed() / 4, "{used:?} of processor time in {:?}", began.elapsed());
    assert_eq!(server.count_log("cannot accept"), 1, "said once, not with each try");

    leave_room_for(&server, MORE);
    for client in &mut clients {
        client.set_read_timeout(Some(SOON)).expect("set");
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("answered");
        assert!(answer.contains("generation 1"), "{answer}");
    }
}

#[test]
fn a_reload_without_descriptors_fails_with_a_clear_word_and_works_later() {
    let server = Start::serve().ready();
    leave_room_for(&server, 0);
    server.hup();
    let line = server.wait_log("reload failed", SOON);
    assert!(line.contains("Too many open files") && line.contains("generation 1 serves on"), "{line}");
    leave_room_for(&server, MORE);
    assert!(http_get(server.addr(), "/").expect("an answer").contains("generation 1"));
    server.reload();
    assert!(http_get(server.addr(), "/").expect("an answer").contains("generation 3"));
}
