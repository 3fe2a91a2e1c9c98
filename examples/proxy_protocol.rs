//! Behind a load balancer that says by the PROXY protocol whose connection it passes on: handlers of axum get the address
//! of the client.
//!
//! `cargo run --features axum --example proxy_protocol`, then `curl --haproxy-protocol http://127.0.0.1:3000`, which begins
//! the connection as a load balancer does. Without the option the connection is closed.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;

#[tokio::main]
async fn main() -> Result<(), cutover::Error> {
    // Only the load balancer should be able to reach this address: other clients could claim any address as their own.
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let app = Router::new().route("/", get(hello)).into_make_service_with_connect_info::<SocketAddr>();
    cutover::Server::bind(address)
        .proxy_protocol()
        .before_begin(|started| println!("generation {} on {:?}", started.generation, started.addresses))
        .serve_make_service(app)
        .await
}

async fn hello(ConnectInfo(client): ConnectInfo<SocketAddr>) -> String {
    format!("hello {client}, from pid {}\n", std::process::id())
}
