//! The end of HTTP connections: what a client sees when the generation behind its connection retires.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Mutex, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, TRAILER};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use rstest::rstest;

use super::*;
use crate::runtime::connections::{Connections, Stage};
use crate::server::acceptor::Io;
use crate::server::service::Same;

mod age;
mod edges;
mod half_close;
mod pipelined;
mod silence;
mod slow_reader;
mod wire;

use self::wire::Wire::{self, Plain, Tls};

const GRACE: Duration = Duration::from_millis(200);
const SOON: Duration = Duration::from_secs(5);

/// A server on a real socket, whose stage the test sets.
struct Bench {
    address: SocketAddr,
    wire: Wire,
    connections: Arc<Connections>,
    /// Lets the server answer `/slow`.
    go: Arc<Notify>,
    /// The connection that was accepted last. Weak, so that the server does not count it as another part of the
    /// connection.
    last: Arc<Mutex<Weak<Shared>>>,
}

impl Bench {
    async fn start(wire: Wire) -> Bench {
        Bench::start_with(wire, &Config::default()).await
    }

    async fn start_with(wire: Wire, config: &Config) -> Bench {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let connections = Connections::new(100);
        let go = Arc::new(Notify::new());
        let sink = {
            let go = go.clone();
            super::sink(
                Same(service_fn(move |request| answer(request, go.clone()))),
                config,
                &Builders::default(),
                wire.layers(),
            )
        };
        let (counted, last) = (connections.clone(), Arc::new(Mutex::default()));
        let accepted = last.clone();
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let socket = stream.into_std().expect("deregistered").into();
                let stream = Stream::new(socket, Some(peer), counted.enter()).expect("registered");
                *accepted.lock().expect("no panic") = Arc::downgrade(&stream.shared());
                sink(stream);
            }
        });
        Bench { address, wire, connections, go, last }
    }

    async fn client(&self) -> Client {
        Client(self.connect().await)
    }

    async fn connect(&self) -> Box<dyn Io> {
        let stream = TcpStream::connect(self.address).await.expect("connected");
        stream.set_nodelay(true).expect("set");
        self.wire.begin(stream).await
    }

    fn retire(&self) {
        self.retire_with(GRACE);
    }

    fn retire_with(&self, grace: Duration) {
        self.connections.enter_stage(Stage::Retiring { since: Instant::now(), grace });
    }

    async fn all_gone(&self) {
        tokio::time::timeout(SOON, self.connections.gone()).await.expect("connections are left");
    }
}

/// A body in two parts: "hel" at once, and "lo" when the test allows it.
struct Halves {
    begun: bool,
    go: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Body for Halves {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !std::mem::replace(&mut self.begun, true) {
            return Poll::Ready(Some(Ok(Frame::data("hel".into()))));
        }
        let Some(go) = &mut self.go else { return Poll::Ready(None) };
        ready!(go.as_mut().poll(cx));
        self.go = None;
        Poll::Ready(Some(Ok(Frame::data("lo".into()))))
    }
}

type Answered = Response<UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(request: Request<Incoming>, go: Arc<Notify>) -> Result<Answered, Infallible> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/slow" => go.notified().await,
        "/same" => {
            let mut same = Response::new(UnsyncBoxBody::default());
            *same.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(same);
        }
        "/too-large" => {
            let mut refused = Response::new(Full::from("hello").boxed_unsync());
            *refused.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            return Ok(refused);
        }
        "/trailers" => {
            let trailers = HeaderMap::from_iter([(HeaderName::from_static("sum"), HeaderValue::from_static("1"))]);
            let (frames, to_send) = tokio::sync::mpsc::channel(1);
            tokio::spawn(async move {
                let _ = frames.send(Ok(Frame::data("hello".into()))).await;
                go.notified().await;
                let _ = frames.send(Ok(Frame::trailers(trailers))).await;
            });
            let mut chunked = Response::new(StreamBody::new(ReceiverStream::new(to_send)).boxed_unsync());
            chunked.headers_mut().insert(TRAILER, HeaderValue::from_static("sum"));
            return Ok(chunked);
        }
        "/big" => return Ok(Response::new(Full::from(vec![b'x'; slow_reader::BIG]).boxed_unsync())),
        "/halves" => {
            let go = Some(Box::pin(async move { go.notified().await }) as Pin<Box<_>>);
            return Ok(Response::new(Halves { begun: false, go }.boxed_unsync()));
        }
        "/body" => {
            let body = request.into_body().collect().await.expect("whole").to_bytes();
            return Ok(Response::new(Full::new(body).boxed_unsync()));
        }
        _ if path == "/upgrade" || request.method() == Method::CONNECT => {
            let is_connect = request.method() == Method::CONNECT;
            tokio::spawn(async move {
                let upgraded = hyper::upgrade::on(request).await.expect("upgraded");
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
                tokio::io::copy(&mut read, &mut write).await
            });
            let mut switching = Response::new(Full::default().boxed_unsync());
            if is_connect {
                return Ok(switching);
            }
            *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            switching.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            switching.headers_mut().insert(http::header::UPGRADE, HeaderValue::from_static("echo"));
            return Ok(switching);
        }
        _ => {}
    }
    Ok(Response::new(Full::from("hello").boxed_unsync()))
}

struct Client(Box<dyn Io>);

impl Client {
    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("sent");
    }

    async fn get(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    }

    /// Reads until the text ends with `end`.
    async fn read_to(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            let byte = tokio::time::timeout(SOON, self.0.read_u8()).await.expect("more in time");
            text.push(byte.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&text))));
        }
        String::from_utf8(text).expect("text")
    }

    /// Reads to the end of the connection, and ends the connection as well.
    async fn rest(&mut self) -> String {
        let mut text = String::new();
        let read = tokio::time::timeout(SOON, self.0.read_to_string(&mut text)).await.expect("closed in time");
        read.expect("no reset");
        // Fails if the server has closed its end by now, or this end was shut down before.
        let _ = self.0.shutdown().await;
        text
    }

    async fn is_closed(&mut self) {
        assert_eq!(self.rest().await, "");
    }
}

#[rstest]
#[tokio::test]
async fn the_next_answer_says_goodbye_and_the_one_before_does_not(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    client.get("/").await;
    assert!(!client.read_to("hello").await.contains("connection"));
    bench.retire();
    client.get("/").await;
    assert!(client.read_to("hello").await.contains("connection: close"));
    client.is_closed().await;
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn an_answer_under_way_says_goodbye_if_its_head_is_not_sent(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    client.get("/slow").await;
    bench.retire();
    bench.go.notify_one();
    assert!(client.read_to("hello").await.contains("connection: close"));
    client.is_closed().await;
}

#[rstest]
#[tokio::test]
async fn an_idle_connection_is_closed_after_the_grace_and_not_before(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    client.get("/").await;
    client.read_to("hello").await;
    let retired = Instant::now();
    bench.retire();
    client.is_closed().await;
    assert!(retired.elapsed() >= GRACE, "{:?}", retired.elapsed());
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn a_new_connection_that_has_not_asked_yet_is_answered_within_the_grace(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    bench.retire();
    let mut client = bench.client().await;
    client.get("/").await;
    assert!(client.read_to("hello").await.contains("connection: close"));
}

#[rstest]
#[tokio::test]
async fn what_the_client_sends_after_the_last_answer_does_not_reset_it(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    bench.retire();
    // The application does not read the body, a part of which still comes after the response was sent.
    client.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n").await;
    client.send(&"x".repeat(200_000)).await;
    assert!(client.read_to("hello").await.contains("connection: close"));
    client.send(&"x".repeat(100_000)).await;
    client.is_closed().await;
}

#[rstest]
#[tokio::test]
async fn an_upgraded_connection_counts_until_it_ends(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    client.send("GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await;
    client.read_to("\r\n\r\n").await;
    bench.retire();
    tokio::time::sleep(GRACE * 2).await;
    client.send("still here").await;
    client.read_to("still here").await;
    assert_eq!(bench.connections.open(), 1);
    drop(client);
    bench.all_gone().await;
}

/// Data after an upgrade is not HTTP, so the server does not look for requests in it: nothing would ever take them.
#[rstest]
#[tokio::test]
async fn an_upgraded_connection_is_not_followed(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    for head in ["GET /upgrade HTTP/1.1\r\nconnection: upgrade\r\nupgrade: echo", "CONNECT x:80 HTTP/1.1\r\nhost: x:80"]
    {
        let mut client = bench.client().await;
        client.send(&format!("{head}\r\n\r\n")).await;
        client.read_to("\r\n\r\n").await;
        for _ in 0..3 {
            client.send("still here\r\n\r\n").await;
            client.read_to("still here\r\n\r\n").await;
        }
        let last = bench.last.lock().expect("no panic").upgrade().expect("it is open");
        assert!(!last.pipeline().waits(), "{head}");
        assert_eq!(bench.connections.kinds().upgraded, 1, "{head}");
        drop((client, last));
        bench.all_gone().await;
    }
}

#[rstest]
#[tokio::test]
async fn http2_is_told_at_once_and_its_streams_are_finished(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let stream = bench.connect().await;
    let io = TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = || Request::get("http://x/slow").body(Empty::<Bytes>::new()).expect("a request");
    let under_way = tokio::spawn(sender.send_request(request()));
    while bench.connections.open() == 0 {
        tokio::task::yield_now().await;
    }
    // An answered stream shows that the server has detected HTTP/2 on the connection.
    let quick = Request::get("http://x/").body(Empty::<Bytes>::new()).expect("a request");
    assert!(sender.send_request(quick).await.is_ok());
    let retired = Instant::now();
    bench.connections.enter_stage(Stage::Retiring { since: retired, grace: Duration::from_secs(3600) });
    bench.go.notify_one();
    let answer = under_way.await.expect("ran").expect("answered");
    assert_eq!(answer.into_body().collect().await.expect("whole").to_bytes(), "hello");
    drop(sender);
    tokio::time::timeout(SOON, connection).await.expect("closed by GOAWAY, not by the grace").expect("ran").ok();
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn a_stop_closes_idle_ones_at_once_and_answers_new_ones(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let (mut idle, mut fresh) = (bench.client().await, bench.client().await);
    idle.get("/").await;
    idle.read_to("hello").await;
    bench.connections.enter_stage(Stage::Stopping { grace: GRACE });
    idle.is_closed().await;
    fresh.get("/").await;
    assert!(fresh.rest().await.contains("connection: close"));
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn a_header_that_is_too_large_is_refused_and_the_next_connection_served(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    client.send(&format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(70_000))).await;
    assert!(client.read_to("\r\n").await.contains("431"));
    let mut next = bench.client().await;
    next.get("/").await;
    next.read_to("hello").await;
}

#[rstest]
#[tokio::test]
async fn a_header_that_does_not_come_is_not_waited_for(#[values(Plain, Tls)] wire: Wire) {
    let header_read_timeout = Duration::from_millis(200);
    let bench = Bench::start_with(wire, &Config { header_read_timeout, ..Config::default() }).await;
    let mut client = bench.client().await;
    let began = Instant::now();
    client.send("GET / HTTP/1.1\r\n").await;
    client.is_closed().await;
    assert!(began.elapsed() >= header_read_timeout);
}

#[rstest]
#[tokio::test]
async fn a_connection_on_which_nothing_comes_is_not_kept(#[values(Plain, Tls)] wire: Wire) {
    let header_read_timeout = Duration::from_millis(200);
    let bench = Bench::start_with(wire, &Config { header_read_timeout, ..Config::default() }).await;
    bench.client().await.is_closed().await;
    let bench = Bench::start(wire).await;
    let mut silent = bench.client().await;
    let retired = Instant::now();
    bench.retire();
    silent.is_closed().await;
    assert!(retired.elapsed() >= GRACE);
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn a_request_may_come_byte_by_byte_and_begin_like_http2(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    for request in ["GET / HTTP/1.1\r\nhost: x\r\n\r\n", "PRI / HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut client = bench.client().await;
        for byte in request.chars() {
            client.send(&byte.to_string()).await;
            tokio::task::yield_now().await;
        }
        assert!(client.read_to("hello").await.starts_with("HTTP/1.1 200"));
    }
}

#[rstest]
#[tokio::test]
async fn what_is_no_http_is_refused(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    client.send("\x16\x03\x01 hello\r\n\r\n").await;
    assert!(client.read_to("\r\n").await.contains("400"));
    let mut closed = bench.client().await;
    closed.0.shutdown().await.expect("closed");
    closed.is_closed().await;
    drop(client);
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn a_slow_answer_is_not_taken_for_a_slow_header(#[values(Plain, Tls)] wire: Wire) {
    let header_read_timeout = Duration::from_millis(100);
    let bench = Bench::start_with(wire, &Config { header_read_timeout, ..Config::default() }).await;
    let mut client = bench.client().await;
    client.get("/slow").await;
    tokio::time::sleep(header_read_timeout * 4).await;
    bench.go.notify_one();
    client.read_to("hello").await;
    client.is_closed().await;
}
