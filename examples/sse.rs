//! Server-sent events whose stream ends when its generation retires. The client reconnects to the next generation and
//! misses no event, because the client says in `Last-Event-ID` which event it has received last.
//!
//! `cargo run --example sse`, then `curl -N http://127.0.0.1:3000/`, then `kill -HUP` the process whose pid the example
//! prints. A browser's `EventSource` reconnects by itself.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::Event;
use axum::routing::get;
use axum::{Extension, Router};
use cutover::{Drain, Server};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// The time between two events, in milliseconds. An event has a number: its time since 1970 in these steps. So each
/// generation knows the events of the generations before, as an application would from its database.
const STEP: u64 = 20;
/// How long a client may be away and still miss nothing, in steps.
const KEPT: u64 = 60_000 / STEP;
/// How long a client waits before it reconnects. Browsers wait for some seconds if they are told nothing.
const RECONNECT: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() -> Result<(), cutover::Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let server =
        Server::bind(address).before_begin(|started| println!("pid {} on {:?}", started.pid, started.addresses));
    let app = Router::new().route("/", get(events)).layer(Extension(server.drain()));
    server.serve(app).await
}

/// Sends the events after the last one that the client has received, or the events from now on.
async fn events(
    Extension(drain): Extension<Drain>,
    headers: HeaderMap,
) -> Sse<ReceiverStream<Result<Event, Infallible>>> {
    let received = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let oldest = steps().saturating_sub(KEPT);
    let first = received.map_or_else(steps, |received| oldest.max(received.saturating_add(1)));
    let (sender, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        for number in first.. {
            let room = async {
                let due = UNIX_EPOCH + Duration::from_millis(number.saturating_mul(STEP));
                tokio::time::sleep(due.duration_since(SystemTime::now()).unwrap_or_default()).await;
                sender.reserve().await
            };
            let room = tokio::select! {
                room = room => room,
                () = drain.started() => break,
            };
            match room {
                Ok(room) => room.send(Ok(Event::default().id(number.to_string()).data(std::process::id().to_string()))),
                // The client has gone.
                Err(_) => return,
            }
        }
        // The end of the sender ends the stream. An error means that the client has gone.
        let _ = sender.send(Ok(Event::default().retry(RECONNECT).comment("this generation retires"))).await;
    });
    Sse::new(ReceiverStream::new(stream))
}

/// The number of steps since 1970.
fn steps() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX) / STEP
}
