//! The resident memory of an idle `cutover serve`, built as for a release, and of each idle connection.

use super::figures::{Figures, print_table, row};
use super::process::Memory;
use super::servers::{BODY, Kind, Serving};
use crate::Extent;
use crate::support::http_get;
use crate::support::process::Start;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

const CONNECTIONS: usize = 2000;
/// The time that a server needs to finish its initial work.
const SETTLE: Duration = Duration::from_millis(200);
const MEGABYTE: f64 = 1e6;
const TARGET_MB: f64 = 10.0;

pub(crate) fn measure(extent: Extent) {
    let times = extent.choose(5, 2);
    println!("Memory: {times} processes each; median (range)");
    let (started, asked): (Vec<Memory>, Vec<Memory>) = (0..times).map(|_| idle()).unzip();
    let megabytes = |memory: &[Memory], of: fn(&Memory) -> f64| {
        let figures: Figures = memory.iter().map(|memory| of(memory) / MEGABYTE).collect();
        figures.range(2)
    };
    let line = |name: &str, memory: &[Memory]| {
        row([&name, &megabytes(memory, |m| m.resident), &megabytes(memory, |m| m.anonymous)])
    };
    print_table(&[
        row([&"cutover serve, idle", &"resident MB", &"of it anonymous MB"]),
        line("after the start", &started),
        line("after one request", &asked),
        row([&"target, below", &TARGET_MB, &""]),
    ]);
    let mut rows = vec![row([&format!("{CONNECTIONS} idle keep-alive connections"), &"bytes each"])];
    let mut figures: [Vec<f64>; 3] = Default::default();
    for _ in 0..times {
        for (figures, kind) in figures.iter_mut().zip(Kind::ALL) {
            figures.push(of_a_connection(kind));
        }
    }
    for (figures, kind) in figures.into_iter().zip(Kind::ALL) {
        rows.push(row([&kind.name(), &figures.into_iter().collect::<Figures>().range(0)]));
    }
    print_table(&rows);
}

/// The memory after the start, and after one request.
fn idle() -> (Memory, Memory) {
    let server = Start::serve().ready();
    sleep(SETTLE);
    let started = Memory::of(server.first_pid());
    http_get(server.addr(), "/").unwrap_or_else(|error| panic!("a request was lost: {error}"));
    sleep(SETTLE);
    (started, Memory::of(server.first_pid()))
}

/// The memory of a connection in user space, in bytes. The memory of the socket in the kernel is not included.
fn of_a_connection(kind: Kind) -> f64 {
    let server = Serving::start(kind);
    // The memory that the first request allocates belongs to the process, not to a connection.
    let first = ask(server.address);
    sleep(SETTLE);
    let before = Memory::of(server.pid());
    let connections: Vec<TcpStream> = (0..CONNECTIONS).map(|_| ask(server.address)).collect();
    sleep(SETTLE);
    let after = Memory::of(server.pid());
    drop((first, connections));
    (after.resident - before.resident) / CONNECTIONS as f64
}

/// Opens a connection on which one request has been answered.
fn ask(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connect");
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("send a request");
    let (mut answer, mut bytes) = (Vec::new(), [0; 1024]);
    while !answer.ends_with(BODY) {
        let count = stream.read(&mut bytes).expect("read an answer");
        assert!(count > 0, "a request was lost: the connection ended after {} bytes", answer.len());
        answer.extend_from_slice(&bytes[..count]);
    }
    stream
}
