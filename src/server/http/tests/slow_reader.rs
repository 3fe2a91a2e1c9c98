//! Clients that take long to read a response: the response is whole, though hyper has dropped its body long before.

use super::*;

/// More than the kernel keeps for a client that does not read (net.ipv4.tcp_wmem and tcp_rmem, tcp(7)).
pub(super) const BIG: usize = 64 << 20;

/// Reads the header of a big response, which does not end the connection.
async fn read_head(client: &mut Client) {
    let head = client.read_to("\r\n\r\n").await;
    assert!(head.contains(&format!("content-length: {BIG}")) && !head.contains("close"), "{head}");
}

async fn read_body(client: &mut Client) {
    let mut body = vec![0; BIG];
    let read = tokio::time::timeout(SOON * 4, client.0.read_exact(&mut body)).await.expect("more in time");
    read.expect("the whole body");
}

#[rstest]
#[tokio::test]
async fn the_time_for_the_next_header_begins_after_the_last_byte(#[values(Plain, Tls)] wire: Wire) {
    let header_read_timeout = Duration::from_millis(500);
    let bench = Bench::start_with(wire, &Config { header_read_timeout, ..Config::default() }).await;
    let mut client = bench.client().await;
    client.get("/big").await;
    read_head(&mut client).await;
    // The time itself is what is tried: twice as long as a silent client may take.
    tokio::time::sleep(header_read_timeout * 3).await;
    read_body(&mut client).await;
    let read = Instant::now();
    client.is_closed().await;
    assert!(read.elapsed() < SOON, "then it begins");
}

#[rstest]
#[tokio::test]
async fn a_request_behind_it_is_answered_after_the_grace_too(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    client.get("/big").await;
    read_head(&mut client).await;
    bench.retire();
    // The grace is over, and the response is not.
    tokio::time::sleep(GRACE * 3).await;
    client.get("/").await;
    read_body(&mut client).await;
    let second = client.rest().await;
    assert!(second.contains("connection: close") && second.ends_with("hello"), "{second}");
}

/// A close that discards nothing sends a FIN: bytes that cross with the FIN are read, and do not bring a reset.
#[rstest]
#[tokio::test]
async fn a_fresh_connection_is_closed_gently(#[values(Plain, Tls)] wire: Wire) {
    let bench = Bench::start(wire).await;
    let mut client = bench.client().await;
    while bench.connections.open() == 0 {
        tokio::task::yield_now().await;
    }
    bench.retire();
    let end = tokio::time::timeout(SOON, client.0.read(&mut [0])).await.expect("closed in time");
    assert_eq!(end.expect("no reset"), 0);
    client.get("/").await;
    client.is_closed().await;
}
