//! State that goes from generation to generation: a counter that survives reloads.
//!
//! `cargo run --example state`, then `curl http://127.0.0.1:3000`, then `kill -HUP` the process whose pid the response
//! names, and `curl` again: another process goes on counting.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::get;

/// The format of the state: a decimal number. After a deployment the next generation may be another program.
const VERSION: u32 = 1;

#[tokio::main]
async fn main() -> Result<(), cutover::Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let count = Arc::new(AtomicU64::new(0));

    let counted = count.clone();
    let mut server = cutover::Server::bind(address)
        .before_begin(|started| println!("generation {} on {:?}", started.generation, started.addresses))
        .on_handover(VERSION, move || {
            // The requests that this generation answers from now on are missing in the state.
            Ok::<_, Infallible>(counted.load(Ordering::Relaxed).to_string().into_bytes())
        });

    let inherited = server.inherited().await.filter(|state| state.version == VERSION);
    let before = inherited.and_then(|state| String::from_utf8(state.bytes).ok()?.parse().ok());
    count.store(before.unwrap_or(0), Ordering::Relaxed);

    let answer = move || {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        async move { format!("request {number}, answered by pid {}\n", std::process::id()) }
    };
    server.serve(Router::new().route("/", get(answer))).await
}
