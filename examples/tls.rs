//! HTTPS: HTTP/2 and HTTP/1.1 with axum, and a certificate that each generation reads anew.
//!
//! `openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out cert.pem` makes a certificate.
//! `cargo run --example tls -- 127.0.0.1:3000 cert.pem key.pem`, then `curl -k https://127.0.0.1:3000`. Replace the two files, `kill
//! -HUP` the process whose pid the response names, and the next generation shows the new certificate.

use axum::Router;
use axum::routing::get;
use cutover::{Server, TlsConfig};

#[tokio::main]
async fn main() -> Result<(), cutover::Error> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let certificate = arguments.next().unwrap_or_else(|| "cert.pem".to_owned());
    let key = arguments.next().unwrap_or_else(|| "key.pem".to_owned());
    let app = Router::new().route("/", get(|| async { format!("hello from pid {}\n", std::process::id()) }));
    Server::bind(address)
        .tls(TlsConfig::files(certificate, key))
        .before_begin(|started| println!("generation {} on {:?}", started.generation, started.addresses))
        .serve(app)
        .await
}
