//! Clients that shut down their writing side, and clients of HTTP/1.0.

use super::*;
use crate::runtime::requests::NoResponse;

#[rstest]
#[tokio::test]
async fn a_client_that_has_said_all_gets_its_answer(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    client.get("/slow").await;
    client.0.shutdown().await.expect("shut down");
    // Only a wait can show that the server does not take the shutdown for the end of the connection.
    tokio::time::sleep(GRACE).await;
    bench.go.notify_one();
    assert!(client.rest().await.ends_with("hello"));
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn two_requests_and_the_end_are_two_answers(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    bench.retire();
    client.send("GET /slow HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    client.0.shutdown().await.expect("shut down");
    tokio::time::sleep(GRACE).await;
    bench.go.notify_one();
    assert_eq!(client.rest().await.matches("hello").count(), 2);
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn without_it_the_handler_is_cancelled_and_nothing_is_answered(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start_with(wire, &Config { half_close: false, ..Config::default() }).await;
    let mut client = bench.client().await;
    client.get("/slow").await;
    client.0.shutdown().await.expect("shut down");
    // Nothing has let the handler go. A connection that ends within a response must not look whole: there is no
    // close_notify.
    let end = client.0.read(&mut [0]).await;
    match wire {
        Plain => assert_eq!(end.expect("no reset"), 0),
        Tls => assert_eq!(end.expect_err("cut").kind(), std::io::ErrorKind::UnexpectedEof),
    }
    drop(client);
    bench.all_gone().await;
    assert_eq!(bench.connections.requests().without_response(NoResponse::Cancelled), 1);
}

#[rstest]
#[tokio::test]
async fn an_idle_connection_that_the_client_ends_is_closed_at_once(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    client.get("/").await;
    client.read_to("hello").await;
    client.0.shutdown().await.expect("shut down");
    client.is_closed().await;
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn a_request_cut_short_by_the_end_is_not_waited_for(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    for part in ["P", "GET / HTTP/1.1\r\nhost: x\r\n"] {
        let mut client = bench.client().await;
        client.send(part).await;
        client.0.shutdown().await.expect("shut down");
        client.rest().await;
    }
    bench.all_gone().await;
}

const KEEP_ALIVE_1_0: &str = "GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n";

#[rstest]
#[tokio::test]
async fn http_1_0_hears_close_alone(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    client.send(KEEP_ALIVE_1_0).await;
    assert!(client.read_to("hello").await.contains("connection: keep-alive\r\n"));
    bench.retire();
    client.send(KEEP_ALIVE_1_0).await;
    let last = client.rest().await;
    assert!(last.starts_with("HTTP/1.0 200 OK\r\n") && last.ends_with("hello"), "{last}");
    assert!(last.contains("connection: close\r\n") && !last.contains("keep-alive"), "{last}");
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn http_1_0_hears_it_with_the_last_of_two(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    bench.retire();
    client.send(&[KEEP_ALIVE_1_0, KEEP_ALIVE_1_0].concat()).await;
    let answers = client.rest().await;
    assert_eq!(answers.matches("hello").count(), 2, "{answers}");
    let (first, last) = answers.split_once("hello").expect("two");
    assert!(first.contains("connection: keep-alive\r\n") && last.contains("connection: close\r\n"), "{answers}");
}
