//! WebSockets: their handlers learn of the drain and of its end, and have a moment to send a close frame.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::example;
use crate::support::process::Instance;

const SOON: Duration = Duration::from_secs(10);
/// The drain timeout: long enough for an echo after the reload, also on a busy machine.
const DRAIN: Duration = Duration::from_secs(3);

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
/// "Going away" (RFC 6455, 7.4.1).
const AWAY: [u8; 2] = 1001_u16.to_be_bytes();

/// A client of RFC 6455, limited to what these tests need.
struct WebSocket(TcpStream);

impl WebSocket {
    fn connect(address: SocketAddr, path: &str) -> WebSocket {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(SOON)).expect("set");
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("sent");
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("an answer");
            answer.push(byte[0]);
        }
        let answer = String::from_utf8(answer).expect("text");
        // The answer to this key, of RFC 6455, 1.3.
        let accepts = answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(answer.starts_with("HTTP/1.1 101 ") && accepts, "{answer}");
        let mut socket = WebSocket(stream);
        socket.echoes();
        socket
    }

    /// Sends one short frame, masked by zeroes.
    fn send(&mut self, opcode: u8, payload: &[u8]) {
        let length = u8::try_from(payload.len()).expect("a short frame");
        let frame = [&[0x80 | opcode, 0x80 | length, 0, 0, 0, 0], payload].concat();
        self.0.write_all(&frame).expect("sent");
    }

    /// Receives one short frame: the opcode and the payload.
    fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).expect("a frame");
        let mut payload = vec![0; usize::from(head[1])];
        self.0.read_exact(&mut payload).expect("a whole frame");
        (head[0] & 0x0f, payload)
    }

    fn echoes(&mut self) {
        self.send(TEXT, b"hello");
        assert_eq!(self.receive(), (TEXT, b"hello".to_vec()));
    }

    /// Receives the server's close frame.
    fn is_sent_away(&mut self) {
        let (opcode, payload) = self.receive();
        assert_eq!((opcode, &payload[..2]), (CLOSE, AWAY.as_slice()));
    }

    /// Sends the client's close frame, and waits for the end of the connection.
    fn leaves(&mut self) {
        self.send(CLOSE, &AWAY);
        assert_eq!(self.0.read(&mut [0]).expect("an end, no reset"), 0);
    }
}

/// The old generation exits when the last WebSocket is closed: long before the end of a drain of a minute, or within
/// the second after the end of the drain.
fn gone(server: &Instance) {
    server.wait_gone(server.first_pid(), SOON);
}

#[test]
fn it_is_sent_away_when_the_drain_begins() {
    let (server, address) = example("websocket", &[]);
    let mut old = WebSocket::connect(address, "/");
    server.reload();
    old.is_sent_away();
    old.leaves();
    gone(&server);
    WebSocket::connect(address, "/");
}

#[test]
fn it_stays_to_the_end_of_the_drain_and_is_sent_away_then() {
    let (server, address) = example("websocket", &[&DRAIN.as_secs().to_string()]);
    let mut old = WebSocket::connect(address, "/stay");
    let began = Instant::now();
    server.reload();
    old.echoes();
    old.is_sent_away();
    assert!(began.elapsed() >= DRAIN, "{:?}", began.elapsed());
    old.leaves();
    gone(&server);
}

#[test]
fn usr2_ends_the_drain_and_leaves_it_a_moment_too() {
    let (server, address) = example("websocket", &["3600"]);
    let mut old = WebSocket::connect(address, "/stay");
    server.reload();
    old.echoes();
    server.signal(server.first_pid(), Signal::USR2);
    old.is_sent_away();
    old.leaves();
    gone(&server);
}

/// The server waits one second for the client's close frame, and no longer.
#[test]
fn a_client_that_does_not_answer_the_goodbye_is_not_waited_for() {
    let (server, address) = example("websocket", &["3600"]);
    let mut old = WebSocket::connect(address, "/stay");
    server.reload();
    let ended = Instant::now();
    server.signal(server.first_pid(), Signal::USR2);
    old.is_sent_away();
    server.wait_gone(server.first_pid(), SOON);
    let moment = ended.elapsed();
    assert!(moment >= Duration::from_millis(900) && moment < Duration::from_secs(5), "{moment:?}");
}

#[test]
fn a_stop_sends_it_away_as_well() {
    let (server, address) = example("websocket", &[]);
    let mut old = WebSocket::connect(address, "/");
    server.signal(server.first_pid(), Signal::TERM);
    old.is_sent_away();
    old.leaves();
    gone(&server);
}
