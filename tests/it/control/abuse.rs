//! Misbehaving clients of the control socket: the server serves on, other clients are answered, and memory does not
//! grow.

use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{SOON, kept};
use crate::support::deployed::{Deployed, GREEN};
use crate::support::load::{Load, Mode, Plan};
use crate::support::process::{Instance, Start};
use crate::support::raw_control::{End, Raw, read_answer, read_to_end, request, request_and_keep};

/// Shorter than the time limit for a bad client (5 s), so that a server which waits for one is detected on a busy
/// machine too.
const PROMPT: Duration = Duration::from_secs(3);
const MEGABYTE: usize = 1 << 20;
/// Maximum growth of the process, in kB.
const GROWTH_MAX: u64 = 20 * 1024;

/// A server under load. No request may be lost, whatever happens at its control socket.
struct Siege {
    server: Instance,
    control: Raw,
    load: Load,
    resident: u64,
}

impl Siege {
    fn begin(start: Start) -> Siege {
        let server = start.ready();
        let control = Raw::of(&server);
        // The pause leaves processor time for the bad clients.
        let pause = Duration::from_millis(2);
        let load = Plan { pause, ..Plan::new([server.addr()], 8, Mode::Close) }.start();
        load.wait_answered(100, SOON);
        // Memory that the first status request allocates once does not count as growth.
        let resident = resident(&control.status());
        Siege { server, control, load, resident }
    }

    /// Asserts that other clients are still answered, at the control socket and at the server's port.
    #[track_caller]
    fn holds(&self) -> Value {
        let status = self.control.status_within(PROMPT);
        self.load.wait_answered(50, SOON);
        let grown = resident(&status).saturating_sub(self.resident);
        assert!(grown < GROWTH_MAX, "grown by {grown} kB");
        status
    }

    #[track_caller]
    fn ends_well(self) {
        self.holds();
        let report = self.load.stop();
        report.assert_nothing_lost();
    }
}

/// VmRSS of the newest generation, in kB: proc_pid_status(5).
fn resident(status: &Value) -> u64 {
    let pid = &status["generations"][0]["pid"];
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().strip_suffix(" kB").and_then(|kb| kb.parse().ok()).expect("a number")
}

/// Pseudo-random bytes, the same in each run (xorshift).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn garbage_is_refused() {
    let siege = Siege::begin(Start::serve());
    let tls_hello = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &noise(500)].concat();
    let garbage = [
        &b"\0"[..],
        &[0; 4096],
        &noise(16),
        &noise(100_000),
        &tls_hello,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/status\r\n\r\n",
        b"GET /v1/status HTTP/7.3\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n: nameless\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"{\"reload\":true}\n",
    ];
    for bytes in garbage {
        let mut stream = siege.control.connect().expect("connected");
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let (answer, _) = read_to_end(&mut stream);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{bytes:?}: {answer}");
        siege.control.status_within(PROMPT);
    }
    assert_eq!(siege.holds()["rollout"], Value::Null, "none of it was taken for a reload");
    assert!(!siege.server.log_contains("reloading"));
    siege.ends_well();
}

#[test]
fn a_header_and_a_body_of_ten_megabytes_are_not_taken_in() {
    let siege = Siege::begin(Start::serve());
    let long = "x".repeat(10 * MEGABYTE);
    for header in [
        format!("GET /v1/status HTTP/1.1\r\nhost: x\r\nlong: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"),
        format!("GET /v1/status HTTP/1.1\r\n{}\r\n", "many: one\r\n".repeat(MEGABYTE)),
    ] {
        let (answer, taken) = siege.control.write_and_read(header.as_bytes());
        assert!(taken < MEGABYTE, "{taken} bytes were taken");
        let refused = ["HTTP/1.1 431 ", "HTTP/1.1 414 "].iter().any(|status| answer.starts_with(status));
        assert!(answer.is_empty() || refused, "{answer}");
    }
    siege.holds();
    for target in ["/v1/promote", "/v1/sing"] {
        let head = format!("POST {target} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", long.len());
        let (answer, _) = siege.control.write_and_read(format!("{head}{long}").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 4") && answer.contains("{\"error\":"), "{answer}");
    }
    siege.ends_well();
}

#[test]
fn a_header_without_an_end_is_cut_off_after_its_time_and_nobody_waits_for_it() {
    let siege = Siege::begin(Start::serve());
    let began = Instant::now();
    let mut slow = siege.control.connect().expect("connected");
    slow.write_all(b"GET /v1/status HTTP/1.1\r\nslow: ").expect("sent");
    // The read timeout sets the pace of the writes.
    slow.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    let mut answer = [0; 1024];
    let answered = loop {
        match slow.read(&mut answer) {
            Ok(count) => break count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break 0,
            Err(error) => panic!("{error}"),
        }
        assert!(began.elapsed() < Duration::from_secs(10), "it is still listened to");
        siege.control.status_within(PROMPT);
        // EPIPE if the server has just closed the connection; the next read then reports the end.
        let _ = slow.write_all(b"x");
    };
    assert_eq!(answered, 0, "{}", String::from_utf8_lossy(&answer[..answered]));
    assert!(began.elapsed() > Duration::from_secs(4), "after {:?}", began.elapsed());
    siege.ends_well();
}

#[test]
fn a_thousand_connections_keep_nobody_out() {
    let siege = Siege::begin(Start::serve());
    let begin: [&[u8]; 4] = [b"", b"GET /v1/st", b"GET /v1/status HTTP/1.1\r\nhost: x\r\n", &[0xff]];
    let mut held: Vec<UnixStream> = Vec::new();
    for number in 0..1000 {
        let mut stream = siege.control.connect().expect("connected");
        // The write fails if the server has already closed this connection.
        let _ = stream.write_all(begin[number % begin.len()]);
        held.push(stream);
        if number % 100 == 99 {
            siege.control.status_within(PROMPT);
        }
    }
    siege.holds();
    let pid = siege.server.first_pid();
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count();
    assert!(descriptors < 200, "{descriptors} descriptors");
    // A reload works while all of these connections are open.
    siege.control.reload().done();
    siege.holds();
    siege.server.wait_gone(pid, SOON);
    drop(held);
    siege.ends_well();
}

#[test]
fn a_request_of_which_the_half_is_missing_is_nothing() {
    let siege = Siege::begin(Start::serve());
    let whole = request("POST", "/v1/reload");
    for length in 1..whole.len() {
        let mut stream = siege.control.connect().expect("connected");
        stream.write_all(&whole.as_bytes()[..length]).expect("sent");
        drop(stream);
    }
    let status = siege.holds();
    assert_eq!((&status["rollout"], &status["reloads_done"]), (&Value::Null, &Value::from(0)));
    assert!(!siege.server.log_contains("reloading"));
    siege.ends_well();
}

#[test]
fn requests_that_do_not_wait_for_answers_are_answered_in_their_order() {
    let siege = Siege::begin(Start::serve());
    let mut stream = siege.control.connect().expect("connected");
    let asked = ["/v1/status", "/metrics", "/v1/sing"];
    let (all, rounds) = (asked.map(|target| request_and_keep("GET", target)).concat(), 100);
    stream.write_all(all.repeat(rounds).as_bytes()).expect("sent");
    let mut answers = BufReader::new(stream);
    for _ in 0..rounds {
        let [status, metrics, none] = asked.map(|_| read_answer(&mut answers).expect("an answer"));
        assert_eq!((status.status, metrics.status, none.status), (200, 200, 404));
        assert_eq!(status.json()["generations"][0]["generation"], 1);
        assert!(metrics.body.ends_with("# EOF\n"));
    }
    // The same requests from clients that never read an answer: the server does not keep unread answers.
    let deaf: Vec<UnixStream> = (0..20)
        .map(|_| {
            let mut stream = siege.control.connect().expect("connected");
            stream.set_nonblocking(true).expect("set");
            while matches!(stream.write(all.repeat(100).as_bytes()), Ok(1..)) {}
            stream
        })
        .collect();
    siege.holds();
    drop(deaf);
    siege.ends_well();
}

#[test]
fn a_follower_that_never_reads_holds_nothing_up() {
    let siege = Siege::begin(Start::serve().args(["--canary", "1%:10ms,2%:10ms,3%:10ms,4%:10ms", "--soak", "10ms"]));
    let blue = siege.server.first_pid();
    let idle = kept(siege.server.addr());
    let mut deaf = siege.control.connect().expect("connected");
    deaf.write_all(request("POST", "/v1/reload?drain=true").as_bytes()).expect("sent");
    siege.server.wait_log(" live generation=2", SOON);
    siege.holds();
    drop(idle);
    siege.server.wait_gone(blue, SOON);
    // The lines that the client has not read are still in the socket, up to the last one.
    let (lines, end) = read_to_end(&mut deaf);
    assert_eq!(end, End::Closed);
    assert!(lines.contains("\"outcome\":\"done\"") && lines.contains("{\"event\":\"gone\"}"), "{lines}");
    siege.ends_well();
}

#[test]
fn a_follower_that_goes_away_takes_nothing_with_it() {
    let deployed = Deployed::new();
    let siege = Siege::begin(deployed.start("slow"));
    deployed.put(GREEN);
    let mut following = siege.control.reload();
    following.until_phase("starting");
    drop(following);
    siege.holds();
    std::fs::write(deployed.out(), "go on").expect("green may go on");
    siege.server.wait_log("reload done: generation 2 is live", SOON);
    siege.server.wait_gone(siege.server.first_pid(), SOON);
    siege.ends_well();
}

#[test]
fn of_two_hundred_that_ask_at_once_one_gets_the_reload_and_each_of_the_others_hears_of_it() {
    let deployed = Deployed::new();
    let siege = Siege::begin(deployed.start("slow"));
    // The slow green keeps the rollout open until the last client has asked.
    deployed.put(GREEN);
    let (all, start) = (200, Barrier::new(200));
    let answers: Vec<io::Result<(u16, BufReader<UnixStream>)>> = std::thread::scope(|scope| {
        let ask = || {
            start.wait();
            loop {
                let mut stream = siege.control.connect()?;
                let connected = Instant::now();
                let written = stream.write_all(request("POST", "/v1/reload").as_bytes());
                // A client that got no processor time, and was idle for longer than `LEFT_ALONE`, may have been
                // disconnected for another.
                let late = connected.elapsed() > Duration::from_millis(250);
                let mut from = BufReader::new(stream);
                let mut status = [0; 12];
                match written.and_then(|()| from.read_exact(&mut status)) {
                    Ok(()) => {}
                    Err(_) if late => continue,
                    Err(error) => return Err(error),
                }
                let status = String::from_utf8_lossy(&status).strip_prefix("HTTP/1.1 ").and_then(|s| s.parse().ok());
                return Ok((status.unwrap_or_default(), from));
            }
        };
        let asking: Vec<_> = (0..all).map(|_| scope.spawn(ask)).collect();
        asking.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    let with =
        |wanted: u16| answers.iter().filter(|answer| answer.as_ref().is_ok_and(|(got, _)| *got == wanted)).count();
    let unanswered: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert_eq!((with(200), with(409)), (1, all - 1), "{} without an answer: {unanswered:?}", unanswered.len());
    siege.holds();
    std::fs::write(deployed.out(), "go on").expect("green may go on");
    let mut winner = answers.into_iter().flatten().find_map(|(status, from)| (status == 200).then_some(from));
    let mut lines = String::new();
    winner.as_mut().expect("one").read_to_string(&mut lines).expect("text");
    assert!(lines.contains("\"outcome\":\"done\",\"generation\":2"), "{lines}");
    siege.ends_well();
}
