//! A rollout that can be taken back: the next generation is probed before any user reaches it, gets a share of the new
//! connections, then all of them, while the old generation can still get them back.
//!
//! `cargo run --example bluegreen -- 127.0.0.1:3000`, and in another terminal `cutover reload`,
//! `cutover status --watch`, `cutover promote`, `cutover rollback`.

use std::time::Duration;

use axum::routing::get;
use cutover::{Event, Server, Share};

#[tokio::main]
async fn main() -> Result<(), cutover::Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let server = Server::bind(address)
        .probe("/healthz")
        .canary_step(Share::percent(5), Duration::from_secs(30))
        .canary_step(Share::percent(50), Duration::from_secs(30))
        .soak(Duration::from_secs(10));

    let mut events = server.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::Canary { share, time, .. } => println!("{share} of new connections for {time:?}"),
                Event::Soak { time, .. } => println!("all of them, and back again if need be, for {time:?}"),
                Event::Reload(outcome) => println!("{outcome:?}"),
                _ => {}
            }
        }
    });

    let app = axum::Router::new()
        .route("/", get(|| async { format!("pid {}\n", std::process::id()) }))
        .route("/healthz", get(|| async { "ok" }));
    server.serve(app).await
}
