//! Helpers that the integration tests share: the load client, the process harness, and small HTTP requests.

#![allow(dead_code, unused_imports, reason = "the support is whole before every test is written")]
#![allow(unreachable_pub, reason = "`pub` says here what a test may use")]

pub mod app;
pub mod attributes;
pub mod clients;
pub mod control;
pub mod deployed;
pub mod docker;
pub mod foreign;
mod green;
pub mod group;
pub mod load;
mod namespace;
pub mod pattern;
pub mod process;
pub mod programs;
pub mod raw_control;
pub mod run;
pub mod screen;
pub mod script;
pub mod seccomp;
pub mod site;
pub mod slow;
pub mod stall;
mod start;
pub mod status;
pub mod stranger;
pub mod systemd;
pub mod terminal;
pub mod tls;
pub mod verb;
pub mod wan;
mod witness;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Reports that a test is skipped, and the reason.
///
/// # Panics
/// If `CI` is set, because a CI machine provides everything that the tests need.
#[track_caller]
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "CI must not skip this: {why}");
    // Written to the stream directly, because the test runner captures the output of `eprintln!`.
    let _ = writeln!(io::stderr(), "skipped: {why}");
}

/// Starts an example on a free port. Returns the instance and the address from the line that the example prints.
/// `cargo test` without `--test` builds the examples.
#[track_caller]
pub fn example(name: &str, args: &[&str]) -> (process::Instance, SocketAddr) {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_cutover")).with_file_name("examples").join(name);
    assert!(program.exists(), "{} is not built: `cargo build --features cli --examples`", program.display());
    let server = process::Start::program(program).arg("127.0.0.1:0").args(args).ready();
    let line = server.wait_log("[127.0.0.1:", Duration::from_secs(10));
    let address = line.split_once('[').and_then(|(_, rest)| rest.split_once(']')).expect("an address").0;
    (server, address.parse().expect("an address"))
}

/// Returns a listener that joins the group of `address` by SO_REUSEPORT, as a next generation or an unrelated process
/// does.
pub fn join_group(address: SocketAddr) -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).expect("one");
    socket.set_reuse_port(true).expect("set");
    socket.bind(&address.into()).expect("bound");
    socket.listen(16).expect("listens");
    socket
}

/// Waits until the live generation of `server` has exactly `connections` connections. The generation logs the number at
/// SIGUSR1.
#[track_caller]
pub fn wait_connections(server: &process::Instance, connections: usize) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let mark = server.mark();
        server.signal(server.main_pid(), rustix::process::Signal::USR1);
        let line = server.wait_log_after(mark, " status ", Duration::from_secs(5));
        if line.contains(&format!(" connections={connections} ")) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "not {connections} connections in 10 s: {line}");
    }
}

/// Returns a keep-alive connection whose first request has been answered.
#[track_caller]
pub fn kept_alive(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    let (mut answer, mut bytes) = (Vec::new(), [0; 4096]);
    // The page ends with this text.
    while !answer.ends_with(b"from another process\n") {
        let read = stream.read(&mut bytes).expect("an answer");
        assert!(read > 0, "not the whole page: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&bytes[..read]);
    }
    stream
}

/// Sends one GET with `Connection: close`, and returns the whole response as text, including its head.
///
/// # Errors
/// Any error of the socket. The connect, each read and each write have a timeout of 5 s.
pub fn http_get(addr: SocketAddr, path: &str) -> io::Result<String> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&addr, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
