//! Tunnels by CONNECT, of HTTP/1.1 (RFC 9110, 9.3.6) and of HTTP/2 with a protocol (RFC 8441): a tunnel lives on in the
//! generation that has it, until its handler hears that the generation retires, or until the drain is over.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::support::app::{App, GOODBYE, LEAVES, Options, STAYS};

const SOON: Duration = Duration::from_secs(20);
/// Long enough for the reloads and the echoes of the test.
const DRAIN: Duration = Duration::from_secs(4);
const TUNNELS: usize = 50;
const TEXT: &[u8] = b"still here";

/// A tunnel to a handler, which is named by the host that is asked for.
trait Tunnel: Sized {
    type Connection;

    async fn connect(address: SocketAddr) -> Self::Connection;

    async fn open(connection: &mut Self::Connection, host: &str) -> Self;

    async fn send(&mut self, bytes: &'static [u8]);

    /// The next bytes; none at the end.
    async fn receive(&mut self) -> Bytes;

    async fn echoes(&mut self) {
        self.send(TEXT).await;
        let mut back = Vec::new();
        while back.len() < TEXT.len() {
            let more = timeout(SOON, self.receive()).await.expect("an echo in time");
            assert!(!more.is_empty(), "the tunnel has ended after {back:?}");
            back.extend_from_slice(&more);
        }
        assert_eq!(back, TEXT);
    }

    /// Receives the goodbye of the handler, and the end of the tunnel.
    async fn hears_goodbye(mut self) {
        let mut rest = Vec::new();
        loop {
            let more = timeout(SOON, self.receive()).await.expect("an end in time");
            if more.is_empty() {
                break;
            }
            rest.extend_from_slice(&more);
        }
        assert_eq!(String::from_utf8_lossy(&rest), GOODBYE);
    }
}

struct Http1(TcpStream);

impl Tunnel for Http1 {
    type Connection = SocketAddr;

    async fn connect(address: SocketAddr) -> SocketAddr {
        address
    }

    async fn open(address: &mut SocketAddr, host: &str) -> Http1 {
        let mut stream = TcpStream::connect(*address).await.expect("connected");
        let head = format!("CONNECT {host}:80 HTTP/1.1\r\nhost: {host}:80\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.expect("an answer"));
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        Http1(stream)
    }

    async fn send(&mut self, bytes: &'static [u8]) {
        self.0.write_all(bytes).await.expect("sent");
    }

    async fn receive(&mut self) -> Bytes {
        let mut some = vec![0; 64];
        let count = self.0.read(&mut some).await.expect("bytes or an end, no reset");
        some.truncate(count);
        some.into()
    }
}

/// One of the streams of a connection.
struct Http2 {
    send: SendStream<Bytes>,
    receive: RecvStream,
}

impl Tunnel for Http2 {
    type Connection = SendRequest<Bytes>;

    async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
        let stream = TcpStream::connect(address).await.expect("connected");
        let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        sender
    }

    async fn open(sender: &mut SendRequest<Bytes>, host: &str) -> Http2 {
        // The first answer comes after the settings, in which the server allows a protocol with CONNECT.
        let plain = Request::get(format!("http://{host}/")).body(()).expect("a request");
        let (answer, _) = sender.clone().ready().await.expect("room").send_request(plain, true).expect("sent");
        answer.await.expect("an answer");
        assert!(sender.is_extended_connect_protocol_enabled());
        let request = Request::builder().method(Method::CONNECT).uri(format!("http://{host}/"));
        let request = request.extension(Protocol::from_static("echo")).body(()).expect("a request");
        let mut ready = sender.clone().ready().await.expect("room");
        let (answer, send) = ready.send_request(request, false).expect("sent");
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        Http2 { send, receive: answer.into_body() }
    }

    async fn send(&mut self, bytes: &'static [u8]) {
        self.send.send_data(Bytes::from_static(bytes), false).expect("sent");
    }

    async fn receive(&mut self) -> Bytes {
        let Some(data) = self.receive.data().await else { return Bytes::new() };
        let data = data.expect("bytes or an end, no reset");
        self.receive.flow_control().release_capacity(data.len()).expect("as much as has come");
        data
    }
}

fn tunnels_live_on<T: Tunnel>() {
    let app = App::new(Options { drain_timeout: DRAIN, ..Options::default() });
    let server = app.start();
    let blue = server.main_pid();
    let runtime = Runtime::new().expect("a runtime");
    let (mut staying, mut leaving) = (Vec::new(), Vec::new());
    let mut connection = runtime.block_on(T::connect(server.addr()));
    runtime.block_on(async {
        for _ in 0..TUNNELS {
            staying.push(T::open(&mut connection, STAYS).await);
            leaving.push(T::open(&mut connection, LEAVES).await);
        }
    });
    let began = Instant::now();
    server.reload();
    runtime.block_on(async {
        for tunnel in leaving {
            tunnel.hears_goodbye().await;
        }
    });
    assert!(began.elapsed() < DRAIN, "{:?}", began.elapsed());
    for _ in 0..2 {
        runtime.block_on(async {
            for tunnel in &mut staying {
                tunnel.echoes().await;
            }
        });
        server.reload();
    }
    runtime.block_on(async {
        let mut connection = T::connect(server.addr()).await;
        T::open(&mut connection, STAYS).await.echoes().await;
        for tunnel in staying {
            tunnel.hears_goodbye().await;
        }
    });
    assert!(began.elapsed() >= DRAIN, "{:?}", began.elapsed());
    server.wait_gone(blue, SOON);
}

#[test]
fn of_http_1() {
    tunnels_live_on::<Http1>();
}

#[test]
fn of_http_2_with_a_protocol() {
    tunnels_live_on::<Http2>();
}
