//! The load client counts each kind of failure correctly: negative controls of every test that nothing is lost.

use crate::support::load::{Answer, Failures, Load, Mode, Plan, Report};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
const PAGE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\ncutover generation 3 p";
const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const LAST_HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nconnection: Close\r\n\r\nhello";

/// A server that does `misbehave` with each connection, in a thread of its own, until the tests end.
fn server(misbehave: fn(TcpStream) -> io::Result<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("address of the listener");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("accept");
            thread::spawn(move || misbehave(stream));
        }
    });
    address
}

/// Reads a request to its end, so that a close after it is a FIN and no RST. An error if the client has gone.
fn read_request(stream: &mut TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    Ok(())
}

fn hello(target: SocketAddr, mode: Mode) -> Plan {
    Plan { answer: Answer::Exact(b"hello".into()), ..Plan::new([target], 2, mode) }
}

/// The report about a server that answers no request.
fn losses(plan: Plan) -> Report {
    let load = plan.start();
    load.wait_failed(5, PATIENCE);
    let report = load.stop();
    assert_eq!(report.answered, 0, "{report}");
    report
}

/// Asserts that all failures are of this kind.
fn assert_only(report: &Report, count: fn(&Failures) -> u64) {
    let failures = &report.failures;
    assert!(count(failures) > 0, "{report}");
    assert_eq!(count(failures), failures.total(), "{report}");
    assert!(!report.examples.is_empty(), "{report}");
}

fn answered(load: Load) -> Report {
    load.wait_answered(20, PATIENCE);
    load.stop()
}

#[test]
fn nobody_listens_is_refused() {
    // The socket is bound, so that no other test gets the port, but does not listen.
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
    let socket = socket.expect("a socket");
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind");
    let bound = rustix::net::getsockname(&socket).expect("address of the socket");
    let target = SocketAddr::try_from(bound).expect("an internet address");
    let report = losses(hello(target, Mode::Close));
    assert_only(&report, |failures| failures.refused);
    assert_eq!(report.connections, 0, "{report}");
    assert!(report.examples[0].contains("os error 111"), "{report}");
}

#[test]
fn a_linger_of_zero_is_a_reset() {
    let target = server(|mut stream| {
        read_request(&mut stream)?;
        Ok(sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?)
    });
    let report = losses(hello(target, Mode::Close));
    assert_only(&report, |failures| failures.reset);
}

#[test]
fn a_reset_within_the_answer_is_a_reset() {
    let target = server(|mut stream| {
        read_request(&mut stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        Ok(sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?)
    });
    let report = losses(hello(target, Mode::KeepAlive));
    assert_only(&report, |failures| failures.reset);
}

#[test]
fn a_close_without_an_answer_is_eof_before() {
    let target = server(|mut stream| read_request(&mut stream));
    let report = losses(hello(target, Mode::Close));
    assert_only(&report, |failures| failures.eof_before);
}

#[test]
fn a_body_cut_short_is_eof_within() {
    let target = server(|mut stream| {
        read_request(&mut stream)?;
        stream.write_all(&HELLO[..HELLO.len() - 1])
    });
    let report = losses(hello(target, Mode::Close));
    assert_only(&report, |failures| failures.eof_within);
}

#[test]
fn a_chunked_body_cut_short_is_eof_within() {
    let target = server(|mut stream| {
        read_request(&mut stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    });
    let report = losses(hello(target, Mode::Close));
    assert_only(&report, |failures| failures.eof_within);
}

#[test]
fn no_answer_is_a_timeout() {
    // The second read holds the connection until the client gives up.
    let target = server(|mut stream| {
        read_request(&mut stream)?;
        read_request(&mut stream)
    });
    let report = losses(Plan { timeout: Duration::from_millis(200), ..hello(target, Mode::Close) });
    assert_only(&report, |failures| failures.timeout);
}

#[test]
fn half_an_answer_is_a_timeout() {
    let target = server(|mut stream| {
        read_request(&mut stream)?;
        stream.write_all(&HELLO[..HELLO.len() - 1])?;
        read_request(&mut stream)
    });
    let report = losses(Plan { timeout: Duration::from_millis(200), ..hello(target, Mode::KeepAlive) });
    assert_only(&report, |failures| failures.timeout);
}

#[test]
fn another_status_is_wrong() {
    let target = server(|mut stream| {
        read_request(&mut stream)?;
        stream.write_all(b"HTTP/1.1 500 Oh\r\nContent-Length: 5\r\n\r\nhello")
    });
    let report = losses(hello(target, Mode::Close));
    assert_only(&report, |failures| failures.wrong);
}

#[test]
fn another_body_is_wrong() {
    let target = server(|mut stream| {
        read_request(&mut stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhallo")
    });
    let report = losses(hello(target, Mode::KeepAlive));
    assert_only(&report, |failures| failures.wrong);
}

#[test]
fn bytes_after_the_answer_are_wrong() {
    let target = server(|mut stream| {
        read_request(&mut stream)?;
        stream.write_all(&[HELLO, b"!"].concat())
    });
    let report = losses(hello(target, Mode::KeepAlive));
    assert_only(&report, |failures| failures.wrong);
}

#[test]
fn a_page_without_its_author_is_wrong() {
    let target = server(|mut stream| {
        read_request(&mut stream)?;
        stream.write_all(PAGE)
    });
    let report = losses(Plan::new([target], 2, Mode::Close));
    assert_only(&report, |failures| failures.wrong);
}

fn three_and_silence(mut stream: TcpStream) -> io::Result<()> {
    for _ in 0..3 {
        read_request(&mut stream)?;
        stream.write_all(HELLO)?;
    }
    Ok(())
}

#[test]
fn a_keep_alive_connection_closed_in_silence_is_a_failure() {
    let target = server(three_and_silence);
    let report = answered(hello(target, Mode::KeepAlive).start());
    // The kernel decides whether the client first sees the FIN, or the RST that answers the request.
    assert_only(&report, |failures| failures.reset + failures.eof_before);
    assert!(report.connections > 1, "{report}");
}

#[test]
fn a_close_in_silence_during_the_pause_is_a_failure_too() {
    let target = server(three_and_silence);
    let plan = Plan { pause: Duration::from_millis(5), ..hello(target, Mode::KeepAlive) };
    let report = answered(plan.start());
    assert_only(&report, |failures| failures.reset + failures.eof_before);
}

#[test]
fn a_keep_alive_connection_closed_with_notice_loses_nothing() {
    let target = server(|mut stream| {
        for answer in [HELLO, HELLO, LAST_HELLO] {
            read_request(&mut stream)?;
            stream.write_all(answer)?;
        }
        Ok(())
    });
    let report = answered(hello(target, Mode::KeepAlive).start());
    report.assert_nothing_lost();
    let connections = report.answered.div_ceil(3);
    assert!((connections..=connections + 1).contains(&report.connections), "{report}");
}

#[test]
fn several_requests_in_one_write_have_an_answer_each() {
    let target = server(|mut stream| {
        for _ in 0..3 {
            read_request(&mut stream)?;
        }
        stream.write_all(&[HELLO, HELLO].concat())?;
        read_request(&mut stream)?;
        stream.write_all(&[HELLO, LAST_HELLO].concat())
    });
    let report = answered(hello(target, Mode::Pipelined).start());
    report.assert_nothing_lost();
    assert_eq!(report.answered, report.connections * 4, "{report}");
}

#[test]
fn a_close_before_the_last_of_several_loses_the_rest() {
    let target = server(|mut stream| {
        for answer in [HELLO, LAST_HELLO, HELLO, HELLO] {
            read_request(&mut stream)?;
            stream.write_all(answer)?;
        }
        Ok(())
    });
    let report = answered(hello(target, Mode::Pipelined).start());
    assert_only(&report, |failures| failures.eof_before);
    assert_eq!(report.failures.total(), report.answered, "{report}");
}

/// In HTTP/1.0 `keep-alive` is a promise, whatever other options the header has.
#[test]
fn http_1_0_is_kept_alive_by_keep_alive_only() {
    let target = server(|mut stream| {
        read_request(&mut stream)?;
        stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nconnection: close, keep-alive\r\n\r\nhello")
    });
    let report = answered(hello(target, Mode::KeepAlive10).start());
    assert_only(&report, |failures| failures.reset + failures.eof_before);
    let target = server(|mut stream| {
        read_request(&mut stream)?;
        stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nconnection: close\r\n\r\nhello")
    });
    answered(hello(target, Mode::KeepAlive10).start()).assert_nothing_lost();
}

#[test]
#[should_panic(expected = "eof_before: ")]
fn an_assertion_says_what_was_lost() {
    let target = server(|mut stream| read_request(&mut stream));
    losses(hello(target, Mode::Close)).assert_nothing_lost();
}

/// A failure counts by the time at which its connection was begun.
#[test]
#[should_panic(expected = "a connection failed that was begun")]
fn a_failure_is_before_or_after_a_moment() {
    let target = server(three_and_silence);
    let before = Instant::now();
    let report = answered(hello(target, Mode::KeepAlive).start());
    report.assert_nothing_lost_after(Instant::now());
    report.assert_nothing_lost_after(before);
}

#[test]
fn a_body_in_chunks_and_small_pieces_is_right() {
    let target = server(|mut stream| {
        stream.set_nodelay(true)?;
        let answer =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nA: b\r\n\r\n";
        loop {
            read_request(&mut stream)?;
            for piece in answer.as_bytes().chunks(3) {
                stream.write_all(piece)?;
            }
        }
    });
    let report = answered(hello(target, Mode::KeepAlive).start());
    report.assert_nothing_lost();
    assert_eq!(report.connections, 2, "{report}");
}

#[test]
fn a_body_that_ends_with_the_connection_is_right() {
    let target = server(|mut stream| {
        read_request(&mut stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhel")?;
        stream.write_all(b"lo")
    });
    for mode in [Mode::Close, Mode::KeepAlive] {
        answered(hello(target, mode).start()).assert_nothing_lost();
    }
}

#[test]
fn the_authors_of_the_pages_are_recorded() {
    let page = |mut stream: TcpStream| {
        read_request(&mut stream)?;
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nnext generation: stupid 5, generation 3 (pid 4711)\n")
    };
    let plan = Plan { threads: 2, ..Plan::new([server(page), server(page)], 4, Mode::KeepAlive) };
    let load = plan.start();
    load.wait_generation(3, PATIENCE);
    let report = answered(load);
    report.assert_nothing_lost();
    assert!(report.generations.iter().eq([&3]), "{report}");
    assert!(report.pids.iter().eq([&4711]), "{report}");
    assert!(report.answered_by.iter().eq([(&3, &report.answered)]), "{report}");
    assert!(report.percent_of(3) == 100.0 && report.percent_of(4) == 0.0, "{report}");
    assert_eq!(report.latency.len(), report.answered, "{report}");
}

#[test]
#[should_panic(expected = "the load did not see 1 more answers within 50ms: 0 answered")]
fn a_wait_in_vain_says_what_it_waited_for() {
    let target = server(|mut stream| {
        read_request(&mut stream)?;
        read_request(&mut stream)
    });
    let plan = Plan { timeout: Duration::from_millis(200), ..hello(target, Mode::Close) };
    plan.start().wait_answered(1, Duration::from_millis(50));
}
