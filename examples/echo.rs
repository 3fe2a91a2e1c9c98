//! Plain TCP: an echo server that restarts without losing a connection.
//!
//! `cargo run --example echo`, then `nc 127.0.0.1 7000`, then `kill -HUP` the server: an open connection stays with the
//! old process until its end, and a new connection goes to the new process.

use tokio::io::{AsyncWriteExt as _, copy, split};

#[tokio::main]
async fn main() -> Result<(), cutover::Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    let mut listener = cutover::Server::bind(address)
        .before_begin(|started| println!("pid {} on {:?}", started.pid, started.addresses))
        .listen()
        .await?;
    while let Some(stream) = listener.accept().await {
        tokio::spawn(async move {
            // The stream counts as open until both halves are dropped.
            let (mut read, mut write) = split(stream);
            copy(&mut read, &mut write).await?;
            write.shutdown().await
        });
    }
    // The listener has retired, and another process accepts now. This process ends when its last stream ends.
    listener.drained().await;
    Ok(())
}
