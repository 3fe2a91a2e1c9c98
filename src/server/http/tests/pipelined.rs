//! Pipelined requests, which come before the previous response: each request that was received is answered.

use std::io::Write as _;

use proptest::prelude::*;

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const SLOW: &str = "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n";

/// Expects this number of responses, of which only the last one says `close`.
async fn last_says_close(client: &mut Client, answers: usize) {
    let text = client.rest().await;
    assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), answers, "{text}");
    assert_eq!(text.matches("connection: close\r\n").count(), 1, "{text}");
    let last = text.rfind("HTTP/1.1 200 OK\r\n").expect("one");
    assert!(text[last..].contains("connection: close\r\n"), "{text}");
}

/// Both modes of hyper: it looks for the end of the connection while it answers, or it does not.
async fn both(wire: Wire) -> [Bench; 2] {
    let with = |half_close| Config { half_close, ..Config::default() };
    [Bench::start_with(wire, &with(true)).await, Bench::start_with(wire, &with(false)).await]
}

#[rstest]
#[tokio::test]
async fn the_second_in_one_write_is_answered_and_says_close(#[values(Plain, Tls)] wire: Wire) {
    for bench in both(wire).await {
        let mut client = bench.client().await;
        client.send(&[SLOW, GET].concat()).await;
        bench.retire();
        bench.go.notify_one();
        last_says_close(&mut client, 2).await;
        drop(client);
        bench.all_gone().await;
    }
}

#[rstest]
#[tokio::test]
async fn the_second_may_come_while_the_first_is_answered(#[values(Plain, Tls)] wire: Wire) {
    for bench in both(wire).await {
        let mut client = bench.client().await;
        client.send(SLOW).await;
        while bench.connections.kinds().http1 == 0 {
            tokio::task::yield_now().await;
        }
        bench.retire();
        client.send(GET).await;
        bench.go.notify_one();
        last_says_close(&mut client, 2).await;
    }
}

/// The time to leave has passed when the first request is answered at last. hyper must not be told to end then.
#[rstest]
#[tokio::test]
async fn the_grace_may_be_over_before_the_first_is_answered(#[values(Plain, Tls)] wire: Wire) {
    for bench in both(wire).await {
        let mut client = bench.client().await;
        client.send(&[SLOW, GET].concat()).await;
        bench.retire_with(Duration::ZERO);
        tokio::time::sleep(GRACE).await;
        bench.go.notify_one();
        last_says_close(&mut client, 2).await;
    }
}

#[rstest]
#[tokio::test]
async fn a_part_of_the_second_is_waited_for(#[values(Plain, Tls)] wire: Wire) {
    for bench in both(wire).await {
        let mut client = bench.client().await;
        client.send(&format!("{SLOW}{}", &GET[..9])).await;
        bench.retire_with(SOON);
        bench.go.notify_one();
        assert!(!client.read_to("hello").await.contains("connection"));
        client.send(&GET[9..]).await;
        last_says_close(&mut client, 1).await;
    }
}

/// The bytes are neither in the socket nor decrypted while the first request is answered.
#[tokio::test]
async fn a_record_that_has_come_in_part_is_waited_for() {
    // In this mode hyper reads while it answers.
    let bench = Bench::start_with(Tls, &Config { half_close: false, ..Config::default() }).await;
    let mut stream = wire::begin_tls(TcpStream::connect(bench.address).await.expect("connected")).await;
    stream.write_all(SLOW.as_bytes()).await.expect("sent");
    while bench.connections.kinds().http1 == 0 {
        tokio::task::yield_now().await;
    }
    let shared = bench.last.lock().expect("no panic").upgrade().expect("it is open");
    let (before, (socket, session)) = (shared.reads(), stream.get_mut());
    let mut record = Vec::new();
    session.writer().write_all(GET.as_bytes()).expect("taken");
    session.write_tls(&mut record).expect("a record");
    socket.write_all(&record[..8]).await.expect("sent");
    let read = async {
        while shared.reads() == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, read).await.expect("read in time");
    bench.retire();
    bench.go.notify_one();
    let mut first = vec![0; 4096];
    let read = stream.read(&mut first).await.expect("a response");
    let first = String::from_utf8_lossy(&first[..read]);
    assert!(first.ends_with("hello") && !first.contains("connection"), "{first}");
    stream.get_mut().0.write_all(&record[8..]).await.expect("sent");
    drop(shared);
    last_says_close(&mut Client(Box::new(stream)), 1).await;
}

/// The header of the first response went out before the generation retired, and could not say `close`.
#[rstest]
#[tokio::test]
async fn what_comes_during_an_answer_is_answered_too(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    client.get("/halves").await;
    client.read_to("hel\r\n").await;
    bench.retire_with(Duration::ZERO);
    tokio::time::sleep(GRACE).await;
    client.send(GET).await;
    bench.go.notify_one();
    client.read_to("lo\r\n0\r\n\r\n").await;
    last_says_close(&mut client, 1).await;
}

#[rstest]
#[tokio::test]
async fn an_answer_that_was_begun_before_is_the_last_if_nothing_comes(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    client.get("/halves").await;
    client.read_to("hel\r\n").await;
    bench.retire_with(Duration::ZERO);
    tokio::time::sleep(GRACE).await;
    bench.go.notify_one();
    assert!(client.rest().await.ends_with("lo\r\n0\r\n\r\n"));
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn a_body_that_is_still_to_come_is_no_request(#[values(Plain, Tls)] wire: Wire) {
    for body in ["content-length: 10\r\n\r\n01234", "transfer-encoding: chunked\r\n\r\nA\r\n01234"] {
        for bench in both(wire).await {
            let mut client = bench.client().await;
            bench.retire();
            // The response does not wait for the body.
            client.send(&format!("POST / HTTP/1.1\r\nhost: x\r\n{body}")).await;
            last_says_close(&mut client, 1).await;
        }
    }
}

/// A request of one of four kinds. The response to a request with a body is that body.
fn request(kind: u8, body: &str) -> String {
    match kind {
        0 => format!("\r\n{GET}"),
        1 => GET.replace("\r\n", "\n"),
        2 => format!("POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
        _ => format!(
            "POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The requests that count as waiting are the requests that hyper answers, however they are split into pieces while
    /// the first request is answered.
    #[test]
    fn all_that_was_received_is_answered(
        requests in proptest::collection::vec((0_u8..4, "[a-z\r\n]{1,40}"), 0..6),
        pieces in proptest::collection::vec(1_usize..80, 1..20),
        retires_at in 0_usize..20,
        half_close: bool,
        over_tls: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let bench = Bench::start_with(if over_tls { Tls } else { Plain }, &Config { half_close, ..Config::default() }).await;
            let mut client = bench.client().await;
                let sent: String = requests.iter().map(|(kind, body)| request(*kind, body)).collect();
            let sent = format!("{SLOW}{sent}");
            let mut rest = sent.as_str();
            for (nth, length) in pieces.into_iter().chain([usize::MAX]).enumerate() {
                if nth == retires_at {
                    bench.retire();
                }
                let (piece, behind) = rest.split_at(length.min(rest.len()));
                client.send(piece).await;
                tokio::task::yield_now().await;
                rest = behind;
            }
            bench.retire();
            bench.go.notify_one();
            last_says_close(&mut client, requests.len() + 1).await;
        });
    }
}
