//! Clients that have sent a part of a request and then nothing more. The grace and the end of the drain limit their
//! connections.

use super::*;

/// Parts of a request for which no handler runs: a part of the HTTP/2 preface, of a header, and bytes that may precede
/// a header.
const PARTS: [&str; 5] = ["\r\n", "P", "PRI * HTTP/2.0\r\n\r\nSM", "G", "GET / HTTP/1.1\r\nhost: x\r\n"];

async fn sent(bench: &Bench, text: &str) -> Client {
    let mut client = bench.client().await;
    client.send(text).await;
    client
}

#[rstest]
#[tokio::test]
async fn half_a_request_at_the_end_of_the_grace_is_not_cut_off(#[values(Plain, Tls)] wire: Wire) {
    const GRACE: Duration = Duration::from_secs(1);
    let bench = Bench::start(wire).await;
    let mut client = sent(&bench, "G").await;
    let retired = Instant::now();
    bench.retire_with(GRACE);
    // Each piece comes long before the silence has lasted for the grace, and the last piece comes long after the grace.
    let mut pieces = "ET / HTTP/1.1\r\nhost: aaaaaaaaaaaaaaaaaaaaaaaa\r\n\r".chars();
    while retired.elapsed() < GRACE * 2 {
        tokio::time::sleep(GRACE / 16).await;
        client.send(&pieces.next().expect("more pieces than times").to_string()).await;
    }
    client.send(pieces.as_str()).await;
    client.send("\n").await;
    assert!(client.read_to("hello").await.contains("connection: close"));
    client.is_closed().await;
}

#[rstest]
#[tokio::test]
async fn a_part_of_a_request_is_closed_when_it_has_been_silent_for_the_grace(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut clients = Vec::new();
    for part in PARTS {
        clients.push(sent(&bench, part).await);
    }
    let retired = Instant::now();
    bench.retire();
    for (mut client, part) in clients.into_iter().zip(PARTS) {
        assert_eq!(client.rest().await, "", "{part}");
        assert!(retired.elapsed() >= GRACE, "{part}: {:?}", retired.elapsed());
    }
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn a_stop_waits_for_a_part_of_a_request_as_long(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut clients = Vec::new();
    for part in PARTS {
        clients.push(sent(&bench, part).await);
    }
    let mut whole = sent(&bench, "GET / HTTP/1.1\r\nhost: x\r\n").await;
    let stopped = Instant::now();
    bench.connections.enter_stage(Stage::Stopping { grace: GRACE });
    whole.send("\r\n").await;
    assert!(whole.rest().await.ends_with("hello"));
    for mut client in clients {
        assert_eq!(client.rest().await, "");
    }
    assert!(stopped.elapsed() >= GRACE, "{:?}", stopped.elapsed());
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn a_part_of_a_second_request_is_closed_as_well(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = sent(&bench, "GET / HTTP/1.1\r\nhost: x\r\n\r\nGET").await;
    client.read_to("hello").await;
    let retired = Instant::now();
    bench.retire();
    client.is_closed().await;
    assert!(retired.elapsed() >= GRACE, "{:?}", retired.elapsed());
}

/// While the previous request is being answered, the part of the next request is no reason to close.
#[rstest]
#[tokio::test]
async fn a_part_behind_a_slow_request_costs_that_nothing(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = sent(&bench, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\nGET").await;
    bench.retire();
    tokio::time::sleep(GRACE * 3).await;
    bench.go.notify_one();
    assert!(!client.read_to("hello").await.contains("connection: close"));
    client.send(" / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(client.rest().await.contains("connection: close"));
}

#[rstest]
#[tokio::test]
async fn a_part_is_not_waited_for_longer_than_for_a_header(#[values(Plain, Tls)] wire: Wire) {
    let header_read_timeout = Duration::from_millis(200);
    let bench = Bench::start_with(wire, &Config { header_read_timeout, ..Config::default() }).await;
    let began = Instant::now();
    let mut clients = Vec::new();
    for part in PARTS {
        clients.push(sent(&bench, part).await);
    }
    bench.retire_with(Duration::from_secs(3600));
    for (mut client, part) in clients.into_iter().zip(PARTS) {
        assert_eq!(client.rest().await, "", "{part}");
        assert!(began.elapsed() >= header_read_timeout, "{part}: {:?}", began.elapsed());
    }
}

/// A slow handler, half a body, parts of headers, an idle connection, and a connection that has its last response and
/// is not closed by the client.
#[rstest]
#[tokio::test]
async fn at_the_end_of_the_drain_all_is_closed_at_once(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut clients = Vec::new();
    for part in PARTS {
        clients.push(sent(&bench, part).await);
    }
    clients.push(sent(&bench, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await);
    clients.push(sent(&bench, "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n01234").await);
    let mut idle = sent(&bench, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    idle.read_to("hello").await;
    bench.retire_with(Duration::from_secs(3600));
    let mut answered = sent(&bench, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    answered.read_to("hello").await;
    clients.extend([idle, answered]);
    while bench.connections.open() < clients.len() {
        tokio::task::yield_now().await;
    }
    let ended = Instant::now();
    bench.connections.enter_stage(Stage::ForceClosed);
    for client in &mut clients {
        let mut rest = Vec::new();
        // The connection may end or be reset: the loss of the request is what was asked for.
        let _ = tokio::time::timeout(SOON, client.0.read_to_end(&mut rest)).await.expect("closed");
        assert!(rest.is_empty());
    }
    // The clients have not closed their sides.
    bench.all_gone().await;
    assert!(ended.elapsed() < SOON, "{:?}", ended.elapsed());
    drop(clients);
}

#[rstest]
#[tokio::test]
async fn at_the_end_of_the_drain_http2_is_closed_at_once(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let io = TokioIo::new(bench.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let slow = Request::get("http://x/slow").body(Empty::<Bytes>::new()).expect("a request");
    let under_way = tokio::spawn(sender.send_request(slow));
    let quick = Request::get("http://x/").body(Empty::<Bytes>::new()).expect("a request");
    assert!(sender.send_request(quick).await.is_ok());
    bench.connections.enter_stage(Stage::ForceClosed);
    assert!(tokio::time::timeout(SOON, under_way).await.expect("ended").expect("ran").is_err());
    tokio::time::timeout(SOON, connection).await.expect("closed").expect("ran").ok();
    bench.all_gone().await;
}
