//! The drain as the application sees it.

use tokio::sync::watch;

use crate::runtime::connections::Stage;

/// Tells a handler when its generation drains and when the drain is over: for connections that do not end by
/// themselves.
///
/// An HTTP response needs no `Drain`: the server finishes the response. A WebSocket or an event stream ends when its
/// handler ends it, and its client reconnects to the next generation. To a handler that waits for neither
/// [`started`](Drain::started) nor [`ended`](Drain::ended), nothing happens before the process ends.
///
/// ```no_run
/// # async fn example() -> Result<(), cutover::Error> {
/// # fn app(_: cutover::Drain) -> axum::Router { axum::Router::new() }
/// let server = cutover::Server::bind("127.0.0.1:3000");
/// // A handler waits for `drain.started()` beside the next message of its client.
/// let app = app(server.drain());
/// server.serve(app).await
/// # }
/// ```
///
/// `examples/websocket.rs` uses a `Drain` to say 1001 (going away).
#[derive(Debug, Clone)]
pub struct Drain(watch::Receiver<Stage>);

impl Drain {
    pub(crate) fn new(stage: watch::Receiver<Stage>) -> Drain {
        Drain(stage)
    }

    /// Waits until this generation retires or stops. From then on the generation accepts no new connections, and
    /// finishes its open connections within [`drain_timeout`](crate::Server::drain_timeout).
    ///
    /// Cancel safe. Returns at once if this generation retires or stops already, and also if its server was dropped
    /// before it served.
    pub async fn started(&self) {
        self.wait(|stage| stage != Stage::Serving).await;
    }

    /// Waits until the drain is over, by [`drain_timeout`](crate::Server::drain_timeout) or by SIGUSR2. HTTP
    /// connections are then closed at once. Upgraded connections, HTTP/2 connections with a tunnel (CONNECT) and plain TCP
    /// connections have one more second to say goodbye: the process ends when all of them are closed, at the latest at
    /// the end of that second.
    ///
    /// A second SIGTERM or SIGINT ends the process at once, without this second.
    ///
    /// Cancel safe. Returns at once if the drain is over already, and also if its server was dropped before it served.
    pub async fn ended(&self) {
        self.wait(|stage| stage == Stage::ForceClosed).await;
    }

    async fn wait(&self, until: impl Fn(Stage) -> bool) {
        // Waiting needs a mutable receiver, so each call waits on a clone. An error means that the server is gone.
        let _ = self.0.clone().wait_for(|stage| until(*stage)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;

    /// Whether this future is complete now.
    async fn is_over(wait: impl Future<Output = ()>) -> bool {
        let mut wait = pin!(wait);
        poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx).is_ready())).await
    }

    #[tokio::test]
    async fn the_beginning_and_the_end_are_told_to_each_who_waits() {
        let stage = watch::Sender::new(Stage::Serving);
        let drain = Drain::new(stage.subscribe());
        let copy = drain.clone();
        assert!(!is_over(copy.started()).await && !is_over(drain.ended()).await);
        stage.send_replace(Stage::Stopping { grace: Duration::ZERO });
        assert!(is_over(copy.started()).await && !is_over(copy.ended()).await);
        stage.send_replace(Stage::ForceClosed);
        assert!(is_over(drain.started()).await && is_over(drain.ended()).await && is_over(copy.ended()).await);
    }

    #[tokio::test]
    async fn without_a_server_it_is_over() {
        let drain = crate::Server::bind("127.0.0.1:0").drain();
        assert!(is_over(drain.started()).await && is_over(drain.ended()).await);
    }
}
