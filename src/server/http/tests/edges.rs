//! Forms of HTTP that servers get wrong, at rest and while the generation retires.

use super::connection_close::SILENCE;
use super::*;

/// Whether the generation retires while the request is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reload {
    Never,
    Midway,
}

use Reload::{Midway, Never};

impl Reload {
    fn comes(self, bench: &Bench) {
        if self == Midway {
            bench.retire();
        }
    }
}

/// Asserts that the head says `close` if the generation retires, and the connection can be used again if not.
async fn ends_or_goes_on(mut client: Client, head: &str, reload: Reload) {
    assert_eq!(head.contains("connection: close\r\n"), reload == Midway, "{head}");
    if reload == Never {
        client.get("/").await;
        client.read_to("hello").await;
        return;
    }
    client.is_closed().await;
}

#[rstest]
#[tokio::test]
async fn a_head_has_no_body(#[values(Plain, Tls)] wire: Wire, #[values(Never, Midway)] reload: Reload) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    client.send("HEAD /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    reload.comes(&bench);
    bench.go.notify_one();
    let head = client.read_to("\r\n\r\n").await;
    assert!(head.contains("content-length: 5\r\n"), "{head}");
    ends_or_goes_on(client, &head, reload).await;
}

#[rstest]
#[tokio::test]
async fn not_modified_has_no_body(#[values(Plain, Tls)] wire: Wire, #[values(Never, Midway)] reload: Reload) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    reload.comes(&bench);
    client.get("/same").await;
    let head = client.read_to("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 304 "), "{head}");
    ends_or_goes_on(client, &head, reload).await;
}

#[rstest]
#[tokio::test]
async fn trailers_come_after_the_body(#[values(Plain, Tls)] wire: Wire, #[values(Never, Midway)] reload: Reload) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    client.send("GET /trailers HTTP/1.1\r\nhost: x\r\nte: trailers\r\n\r\n").await;
    client.read_to("hello\r\n").await;
    reload.comes(&bench);
    bench.go.notify_one();
    assert_eq!(client.read_to("\r\n\r\n").await, "0\r\nsum: 1\r\n\r\n");
    // The head could not say `close`: what comes now is answered, and the response to that says it.
    client
        .send("POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nsum: 1\r\n\r\n")
        .await;
    let answer = client.read_to("hello").await;
    ends_or_goes_on(client, &answer, reload).await;
}

#[rstest]
#[tokio::test]
async fn a_body_that_is_expected_is_asked_for(
    #[values(Plain, Tls)] wire: Wire,
    #[values(Never, Midway)] reload: Reload,
    #[values(true, false)] retires_before: bool,
) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    if retires_before {
        reload.comes(&bench);
    }
    client.send("POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.read_to("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    reload.comes(&bench);
    // Longer than the connection could be idle.
    tokio::time::sleep(if reload == Midway { GRACE * 3 } else { Duration::ZERO }).await;
    client.send("hello").await;
    let answer = client.read_to("hello").await;
    ends_or_goes_on(client, &answer, reload).await;
}

#[rstest]
#[tokio::test]
async fn a_body_that_is_refused_is_not_asked_for(
    #[values(Plain, Tls)] wire: Wire,
    #[values(Never, Midway)] reload: Reload,
) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    reload.comes(&bench);
    client.send("POST /too-large HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("hello"), "{answer}");
}

/// The client reads the response only when it has sent all, and takes longer for that than a silent client may take.
#[rstest]
#[tokio::test]
async fn an_early_response_is_not_overtaken_by_a_reset(
    #[values(Plain, Tls)] wire: Wire,
    #[values(Never, Midway)] reload: Reload,
) {
    const PIECE: usize = 64 * 1024;
    const PIECES: usize = 24;
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    reload.comes(&bench);
    client.send(&format!("POST /too-large HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", PIECE * PIECES)).await;
    for _ in 0..PIECES {
        client.send(&"x".repeat(PIECE)).await;
        tokio::time::sleep(SILENCE / 8).await;
    }
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("hello"), "{answer}");
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn an_upgrade_that_is_refused_is_an_ordinary_request(
    #[values(Plain, Tls)] wire: Wire,
    #[values(Never, Midway)] reload: Reload,
) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    client.send("GET /slow HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    reload.comes(&bench);
    bench.go.notify_one();
    let answer = client.read_to("hello").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    ends_or_goes_on(client, &answer, reload).await;
}

/// The responses to HEAD, with 304, with trailers, and to an upload that is not read.
#[rstest]
#[tokio::test]
async fn the_same_with_http_2(#[values(Plain, Tls)] wire: Wire, #[values(Never, Midway)] reload: Reload) {
    let bench = Bench::start(wire).await;
    let (sender, connection) = h2::client::handshake(bench.connect().await).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let mut sender = sender.ready().await.expect("ready");
    let mut ask = |method, path: &str, is_all| {
        let request = Request::builder().method(method).uri(format!("http://x{path}")).body(()).expect("a request");
        sender.send_request(request, is_all).expect("sent")
    };
    let (head, _) = ask(Method::HEAD, "/slow", true);
    let (same, _) = ask(Method::GET, "/same", true);
    let (trailers, _) = ask(Method::GET, "/trailers", true);
    let (early, mut upload) = ask(Method::POST, "/too-large", false);
    upload.send_data(Bytes::from(vec![b'x'; 200_000]), false).expect("queued");
    let early = early.await.expect("an answer");
    assert_eq!(early.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let mut trailers = trailers.await.expect("an answer").into_body();
    reload.comes(&bench);
    bench.go.notify_one();
    bench.go.notify_one();
    assert_eq!(same.await.expect("an answer").status(), StatusCode::NOT_MODIFIED);
    assert_eq!(early.into_body().data().await.expect("a body").expect("whole"), "hello");
    assert_eq!(trailers.data().await.expect("a body").expect("whole"), "hello");
    bench.go.notify_one();
    let (head, sum) = tokio::join!(head, trailers.trailers());
    let head = head.expect("an answer");
    assert_eq!(head.headers()["content-length"], "5");
    assert!(head.into_body().data().await.is_none());
    assert_eq!(sum.expect("whole").expect("trailers")["sum"], "1");
    if reload == Never {
        let (last, _) = ask(Method::GET, "/", true);
        assert_eq!(last.await.expect("an answer").status(), StatusCode::OK);
        return;
    }
    drop((upload, sender));
    tokio::time::timeout(SOON, connection).await.expect("ended in time").expect("no panic").expect("no error");
    bench.all_gone().await;
}
