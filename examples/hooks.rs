//! An application that can refuse a reload, and receives the events of its reloads.
//!
//! `cargo run --example hooks -- 127.0.0.1:3000 settings.txt`: the hook refuses a reload while the file does not begin
//! with `ok`, as an application would check its configuration.

use cutover::{Event, Server};

#[tokio::main]
async fn main() -> Result<(), cutover::Error> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let settings = arguments.next().unwrap_or_else(|| "settings.txt".to_owned());

    let server = Server::bind(address)
        .before_begin(|started| {
            println!("begin generation={} pid={} {:?}", started.generation, started.pid, started.addresses)
        })
        .before_reload(move || match std::fs::read_to_string(&settings) {
            Ok(text) if text.starts_with("ok") => Ok(()),
            Ok(_) => Err(format!("{settings} is not ok")),
            Err(error) => Err(format!("{settings}: {error}")),
        });

    let mut events = server.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::Phase { to, .. } => println!("phase {to}"),
                Event::Reload(outcome) => println!("reload {outcome:?}"),
                other => println!("{other:?}"),
            }
        }
    });

    let handle = server.handle();
    let reload = axum::routing::post(move || async move { handle.reload().await });
    server.serve(axum::Router::new().route("/reload", reload)).await
}
