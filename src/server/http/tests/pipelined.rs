//! Pipelined requests, which come before the previous response: each request that was received is answered.

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
async fn both() -> [Bench; 2] {
    let with = |half_close| Config { half_close, ..Config::default() };
    [Bench::start_with(&with(true)).await, Bench::start_with(&with(false)).await]
}

#[tokio::test]
async fn the_second_in_one_write_is_answered_and_says_close() {
    for bench in both().await {
        let mut client = bench.client().await;
        client.send(&[SLOW, GET].concat()).await;
        bench.retire();
        bench.go.notify_one();
        last_says_close(&mut client, 2).await;
        drop(client);
        bench.all_gone().await;
    }
}

#[tokio::test]
async fn the_second_may_come_while_the_first_is_answered() {
    for bench in both().await {
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
#[tokio::test]
async fn the_grace_may_be_over_before_the_first_is_answered() {
    for bench in both().await {
        let mut client = bench.client().await;
        client.send(&[SLOW, GET].concat()).await;
        bench.retire_with(Duration::ZERO);
        tokio::time::sleep(GRACE).await;
        bench.go.notify_one();
        last_says_close(&mut client, 2).await;
    }
}

#[tokio::test]
async fn a_part_of_the_second_is_waited_for() {
    for bench in both().await {
        let mut client = bench.client().await;
        client.send(&format!("{SLOW}{}", &GET[..9])).await;
        bench.retire_with(SOON);
        bench.go.notify_one();
        assert!(!client.read_to("hello").await.contains("connection"));
        client.send(&GET[9..]).await;
        last_says_close(&mut client, 1).await;
    }
}

/// The header of the first response went out before the generation retired, and could not say `close`.
#[tokio::test]
async fn what_comes_during_an_answer_is_answered_too() {
    let bench = Bench::start().await;
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

#[tokio::test]
async fn an_answer_that_was_begun_before_is_the_last_if_nothing_comes() {
    let bench = Bench::start().await;
    let mut client = bench.client().await;
    client.get("/halves").await;
    client.read_to("hel\r\n").await;
    bench.retire_with(Duration::ZERO);
    tokio::time::sleep(GRACE).await;
    bench.go.notify_one();
    assert!(client.rest().await.ends_with("lo\r\n0\r\n\r\n"));
    bench.all_gone().await;
}

#[tokio::test]
async fn a_body_that_is_still_to_come_is_no_request() {
    for body in ["content-length: 10\r\n\r\n01234", "transfer-encoding: chunked\r\n\r\nA\r\n01234"] {
        for bench in both().await {
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
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let bench = Bench::start_with(&Config { half_close, ..Config::default() }).await;
            let mut client = bench.client().await;
            client.0.set_nodelay(true).expect("set");
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
