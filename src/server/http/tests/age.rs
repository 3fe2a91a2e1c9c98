//! Connections that end although their generation serves: because they are old, or because the client takes nothing.

use super::*;

/// Long enough for a first response on a busy machine.
const AGE: Duration = Duration::from_millis(500);

fn old() -> Config {
    Config { max_connection_age: Some(AGE), idle_grace: GRACE, ..Config::default() }
}

#[rstest]
#[tokio::test]
async fn an_old_connection_ends_with_its_next_response(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start_with(wire, &old()).await;
    let mut client = bench.client().await;
    let begun = Instant::now();
    loop {
        client.get("/").await;
        if client.read_to("hello").await.contains("connection: close") {
            break;
        }
        assert!(begun.elapsed() < SOON, "the connection does not age");
    }
    assert!(begun.elapsed() >= AGE, "{:?}", begun.elapsed());
    client.is_closed().await;
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn an_old_connection_that_is_idle_ends_after_the_grace(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start_with(wire, &old()).await;
    let mut client = bench.client().await;
    client.get("/").await;
    client.read_to("hello").await;
    let begun = Instant::now();
    client.is_closed().await;
    assert!(begun.elapsed() >= GRACE, "{:?}", begun.elapsed());
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn the_response_of_an_old_connection_is_finished(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start_with(wire, &old()).await;
    let mut client = bench.client().await;
    client.get("/slow").await;
    // The age itself is what is tried.
    tokio::time::sleep(2 * AGE).await;
    bench.go.notify_one();
    assert!(client.read_to("hello").await.contains("connection: close"));
    client.is_closed().await;
}

#[rstest]
#[tokio::test]
async fn an_old_connection_of_http_2_says_goaway_and_answers_what_has_come(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start_with(wire, &old()).await;
    let tcp = bench.connect().await;
    let (mut sender, connection) = h2::client::handshake(tcp).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let begun = Instant::now();
    while let Ok(ready) = sender.ready().await {
        sender = ready;
        let Ok((response, _)) = sender.send_request(Request::get("http://x/").body(()).expect("a request"), true)
        else {
            break;
        };
        assert_eq!(response.await.expect("an answer").status(), 200);
        assert!(begun.elapsed() < SOON, "the connection does not age");
        sender = sender.clone();
    }
    assert!(begun.elapsed() >= AGE, "{:?}", begun.elapsed());
    tokio::time::timeout(SOON, connection).await.expect("ended in time").expect("no panic").expect("no error");
    bench.all_gone().await;
}

#[rstest]
#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up(#[values(Plain, Tls)] wire: Wire) {
    let timeout = Duration::from_millis(200);
    let bench = Bench::start_with(wire, &Config { write_timeout: Some(timeout), ..Config::default() }).await;
    let mut client = bench.client().await;
    let begun = Instant::now();
    client.get("/big").await;
    client.read_to("\r\n\r\n").await;
    bench.all_gone().await;
    assert!(begun.elapsed() >= timeout, "{:?}", begun.elapsed());
}

#[rstest]
#[tokio::test]
async fn a_client_that_waits_for_a_slow_response_is_not_given_up(#[values(Plain, Tls)] wire: Wire) {
    let timeout = Duration::from_millis(50);
    let bench = Bench::start_with(wire, &Config { write_timeout: Some(timeout), ..Config::default() }).await;
    let mut client = bench.client().await;
    client.get("/halves").await;
    client.read_to("hel").await;
    // The timeout itself is what is tried.
    tokio::time::sleep(4 * timeout).await;
    bench.go.notify_one();
    client.read_to("lo").await;
}
