//! Long downloads and uploads that begin before a reload and end after the reload, byte for byte. `CUTOVER_LONG=1` moves a
//! gibibyte each time.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::app::{App, Options};
use crate::support::pattern::{Check, PIECE, piece};
use crate::support::process::Instance;
use crate::support::tls::NAME;

const LIMIT: Duration = Duration::from_secs(120);

fn length() -> u64 {
    if std::env::var_os("CUTOVER_LONG").is_some() { 1 << 30 } else { 1 << 26 }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

type Body = BoxBody<Bytes, Infallible>;

/// Sends a request on a new connection. The response comes when its head has come.
async fn ask(app: &App, server: &Instance, version: Version, request: Request<Body>) -> Response<Incoming> {
    let stream = TcpStream::connect(server.addr()).await.expect("connected");
    match app.options.own_acceptor {
        false => ask_on(TokioIo::new(stream), version, request).await,
        true => {
            let name = ServerName::try_from(NAME).expect("a name");
            let stream = TlsConnector::from(app.tls_client()).connect(name, stream).await.expect("a handshake");
            ask_on(TokioIo::new(stream), version, request).await
        }
    }
}

async fn ask_on(
    io: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    version: Version,
    request: Request<Body>,
) -> Response<Incoming> {
    match version {
        Version::One => {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP/1.1");
            tokio::spawn(connection);
            sender.send_request(request).await
        }
        Version::Two => {
            let executor = TokioExecutor::new();
            let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.expect("HTTP/2");
            tokio::spawn(connection);
            sender.send_request(request).await
        }
    }
    .expect("an answer")
}

fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    let request = Request::builder().method(method).uri(format!("http://localhost{path}")).header("host", "localhost");
    request.body(body).expect("a request")
}

/// Waits until the other generation is live, and this one retires.
async fn reload(server: &Instance) {
    tokio::task::block_in_place(|| server.reload());
}

async fn download(app: &App, server: &Instance, version: Version) {
    let path = format!("/pattern/{}", length());
    let mut response = ask(app, server, version, request(Method::GET, &path, Empty::new().boxed())).await;
    let (generation, mut check, mut is_reloaded) = (response.headers()["generation"].clone(), Check::default(), false);
    while let Some(frame) = response.body_mut().frame().await {
        check.take(&frame.expect("not cut").into_data().expect("no trailers"));
        if !is_reloaded {
            is_reloaded = true;
            reload(server).await;
        }
    }
    assert_eq!((check.length, check.wrong), (length(), None), "{version:?} from generation {generation:?}");
}

async fn upload(app: &App, server: &Instance, version: Version) {
    let (pieces, to_send) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(4);
    let body = StreamBody::new(ReceiverStream::new(to_send)).boxed();
    let answer = ask(app, server, version, request(Method::POST, "/check", body));
    let send = async {
        for nth in 0..length() / PIECE {
            if nth == 16 {
                reload(server).await;
            }
            pieces.send(Ok(Frame::data(piece(nth * PIECE, PIECE)))).await.expect("the connection takes it");
        }
        drop(pieces);
    };
    let (response, ()) = tokio::join!(answer, send);
    let text = response.into_body().collect().await.expect("whole").to_bytes();
    assert_eq!(String::from_utf8_lossy(&text), format!("{} bytes, wrong: None", length()), "{version:?}");
}

#[track_caller]
fn both(own_acceptor: bool) {
    let app = App::new(Options { own_acceptor, ..Options::default() });
    let server = app.start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(async {
        for version in [Version::One, Version::Two] {
            tokio::time::timeout(LIMIT, download(&app, &server, version)).await.expect("whole in time");
            tokio::time::timeout(LIMIT, upload(&app, &server, version)).await.expect("whole in time");
        }
    });
}

#[test]
fn downloads_and_uploads_are_whole() {
    both(false);
}

#[test]
fn downloads_and_uploads_are_whole_over_tls() {
    both(true);
}
