//! A Unix socket beside a port: for a web server on the same machine, and with permissions for its group.
//!
//! `cargo run --example unix_socket -- 127.0.0.1:3000 /tmp/app.sock`, then `curl --unix-socket /tmp/app.sock http://x/`, then `kill -HUP`
//! the process whose pid the response names: the file stays, and another process answers.

use axum::Router;
use axum::routing::get;
use cutover::Server;

#[tokio::main]
async fn main() -> Result<(), cutover::Error> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let path = arguments.next().unwrap_or_else(|| "/tmp/app.sock".to_owned());
    let app = Router::new().route("/", get(|| async { format!("hello from pid {}\n", std::process::id()) }));
    Server::bind(address)
        .and_bind(format!("unix:{path}"))
        .unix_mode(0o660)
        .before_begin(|started| {
            println!("generation {} on {:?} and {:?}", started.generation, started.addresses, started.unix)
        })
        .serve(app)
        .await
}
