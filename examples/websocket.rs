//! WebSockets that send a close frame when their generation drains: 1001, going away (RFC 6455, 7.4.1). A client then
//! reconnects to the next generation.
//!
//! `cargo run --example websocket`, connect to `ws://127.0.0.1:3000/` or `/stay`, then `kill -HUP` the process whose
//! pid the example prints. The further arguments are the drain timeout in seconds, a certificate and a key:
//! `cargo run --example websocket -- 127.0.0.1:3000 60 cert.pem key.pem`.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use axum::routing::any;
use cutover::{Drain, TlsConfig};

#[tokio::main]
async fn main() -> Result<(), cutover::Error> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let seconds = args.next().and_then(|seconds| seconds.parse().ok()).unwrap_or(60);
    let mut server = cutover::Server::bind(address)
        .drain_timeout(Duration::from_secs(seconds))
        .before_begin(|started| println!("pid {} on {:?}", started.pid, started.addresses));
    if let (Some(certificate), Some(key)) = (args.next(), args.next()) {
        server = server.tls(TlsConfig::files(certificate, key));
    }
    let app = Router::new().route("/", any(leave)).route("/stay", any(stay)).with_state(server.drain());
    server.serve(app).await
}

/// Closes the WebSocket as soon as the drain begins.
async fn leave(upgrade: WebSocketUpgrade, State(drain): State<Drain>) -> Response {
    upgrade.on_upgrade(|socket| async move { talk(socket, drain.started()).await })
}

/// Keeps the WebSocket open for as long as the drain lasts.
async fn stay(upgrade: WebSocketUpgrade, State(drain): State<Drain>) -> Response {
    upgrade.on_upgrade(|socket| async move { talk(socket, drain.ended()).await })
}

/// Echoes messages until `time_to_go` is ready, then closes the WebSocket.
async fn talk(mut socket: WebSocket, time_to_go: impl Future<Output = ()>) {
    let mut time_to_go = std::pin::pin!(time_to_go);
    loop {
        let message = tokio::select! {
            message = socket.recv() => message,
            () = time_to_go.as_mut() => break,
        };
        match message {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                // A client that does not read must not keep the handler from sending the close frame.
                let sent = tokio::select! {
                    sent = socket.send(message) => sent,
                    () = time_to_go.as_mut() => break,
                };
                if sent.is_err() {
                    return;
                }
            }
            // axum itself answers these messages.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_))) => {}
            Some(Err(_)) | None => return,
        }
    }
    let goodbye = CloseFrame { code: close_code::AWAY, reason: "restarting".into() };
    if socket.send(Message::Close(Some(goodbye))).await.is_ok() {
        // Reads until the client's own close frame, or the end of the process.
        while let Some(Ok(_)) = socket.recv().await {}
    }
}
