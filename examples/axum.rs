//! An axum application that restarts without losing a request.
//!
//! `cargo run --example axum`, then `curl http://127.0.0.1:3000`, then `kill -HUP` the process whose pid the response
//! names.

use axum::Router;
use axum::routing::get;

#[tokio::main]
async fn main() -> Result<(), cutover::Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let app = Router::new().route("/", get(|| async { format!("hello from pid {}\n", std::process::id()) }));
    cutover::Server::bind(address)
        .before_begin(|started| println!("generation {} on {:?}", started.generation, started.addresses))
        .serve(app)
        .await
}
