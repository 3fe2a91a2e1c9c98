//! Servers in other languages do what `cutover run` needs of them: share a port, and end without losing a request.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::http_get;
use crate::support::process::{Instance, Start};
use crate::support::programs::{Port, Program, Served, UnderWay, pid_in};

const SOON: Duration = Duration::from_secs(20);

macro_rules! each_program {
    ($test:ident) => {
        mod $test {
            use super::Program;

            #[test]
            fn python() {
                super::$test(Program::Python);
            }
            #[test]
            fn gunicorn() {
                super::$test(Program::Gunicorn);
            }
            #[test]
            fn node() {
                super::$test(Program::Node);
            }
            #[test]
            fn node_cluster() {
                super::$test(Program::NodeCluster);
            }
            #[test]
            fn nginx() {
                super::$test(Program::Nginx);
            }
        }
    };
}

each_program!(two_copies_share_a_port);
each_program!(a_request_in_hand_is_answered_before_the_end);
each_program!(without_the_option_the_port_is_in_use);

fn start(served: &Served) -> Instance {
    Start::program(&served.command[0]).args(&served.command[1..]).spawn()
}

/// Waits until each worker of each copy has answered: gunicorn loses a signal to a worker that was only just forked.
#[track_caller]
fn wait_for_answers(address: SocketAddr, served: &Served, copies: &[&Instance]) {
    let deadline = Instant::now() + SOON;
    let mut answered = BTreeSet::new();
    let has_all = |copy: &Instance, answered: &BTreeSet<u32>| {
        copy.pids().iter().filter(|pid| answered.contains(pid)).count() == served.workers
    };
    while !copies.iter().all(|copy| has_all(copy, &answered)) {
        // Connections are refused before the first copy listens.
        answered.extend(http_get(address, "/").ok().and_then(|answer| pid_in(&answer)));
        let logs = || copies.iter().map(|copy| copy.log()).collect::<Vec<_>>();
        assert!(Instant::now() < deadline, "only {answered:?} answer: {:?}", logs());
    }
}

#[track_caller]
fn ends_well(copy: &Instance) {
    let status = copy.wait_exit(SOON);
    assert_eq!(status.code(), Some(0), "{status}: {}", copy.log());
    assert!(copy.pids().is_empty(), "{:?} are left", copy.pids());
}

fn two_copies_share_a_port(program: Program) {
    let port = Port::free();
    let Some(served) = program.at(port.address) else { return };
    let (blue, green) = (start(&served), start(&served));
    wait_for_answers(port.address, &served, &[&blue, &green]);
    for copy in [blue, green] {
        copy.signal(copy.first_pid(), served.stop_signal);
        ends_well(&copy);
    }
}

fn a_request_in_hand_is_answered_before_the_end(program: Program) {
    let port = Port::free();
    let Some(served) = program.at(port.address) else { return };
    let server = start(&served);
    wait_for_answers(port.address, &served, &[&server]);
    let in_hand = UnderWay::begin(port.address);
    let kept = program.is_gentle().then(|| Kept::alive(port.address));
    server.signal(server.first_pid(), served.stop_signal);
    match program {
        // The last of gunicorn's workers still has the listener, so connections are not refused.
        Program::Gunicorn => drop(server.wait_log("Worker exiting", SOON)),
        Program::Python | Program::Node | Program::NodeCluster | Program::Nginx => wait_refused(port.address),
    }
    let answer = in_hand.finish();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && pid_in(&answer).is_some(), "{answer}");
    if let Some(mut kept) = kept {
        let answer = kept.ask();
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    }
    ends_well(&server);
}

/// Shows why nginx gets another signal, and that the test above can fail.
#[test]
fn nginx_cuts_its_requests_at_sigterm() {
    let port = Port::free();
    let Some(served) = Program::Nginx.at(port.address) else { return };
    let server = start(&served);
    wait_for_answers(port.address, &served, &[&server]);
    let in_hand = UnderWay::begin(port.address);
    server.signal(server.first_pid(), Signal::TERM);
    ends_well(&server);
    assert!(in_hand.was_cut());
}

/// Waits until the stop has begun and connections are refused.
#[track_caller]
fn wait_refused(address: SocketAddr) {
    let deadline = Instant::now() + SOON;
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline, "it still listens after {SOON:?}");
        std::thread::yield_now();
    }
}

/// A connection that is kept alive after its first answer.
struct Kept(TcpStream);

impl Kept {
    #[track_caller]
    fn alive(address: SocketAddr) -> Kept {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(SOON)).expect("set");
        let mut kept = Kept(stream);
        let answer = kept.ask();
        assert!(!answer.contains("Connection: close"), "{answer}");
        kept
    }

    #[track_caller]
    fn ask(&mut self) -> String {
        self.0.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        let (mut answer, mut bytes) = (String::new(), [0; 1024]);
        // The page is one line, and no line of the head begins like it.
        while !(answer.contains("\r\n\r\npid ") && answer.ends_with('\n')) {
            let read = self.0.read(&mut bytes).expect("an answer");
            assert!(read > 0, "not the whole answer: {answer}");
            answer.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        answer
    }
}

/// The other listener has not set the option: the program reports that, and fails.
fn without_the_option_the_port_is_in_use(program: Program) {
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let Some(served) = program.at(other.local_addr().expect("an address")) else { return };
    let server = start(&served);
    let status = server.wait_exit(SOON);
    assert_eq!(status.code(), Some(1), "{}", server.log());
    let said = match program {
        Program::Python => "OSError: [Errno 98] Address already in use",
        Program::Gunicorn => "[ERROR] Connection in use: ('127.0.0.1', ",
        Program::Node | Program::NodeCluster => "Error: listen EADDRINUSE: address already in use 127.0.0.1:",
        Program::Nginx => " failed (98: Address already in use)",
    };
    server.wait_log(said, SOON);
}
