//! HTTP on accepted connections, and its end: no request is lost when a generation retires.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::BoxError;
use crate::config::Config;
use crate::runtime::accept::Sink;
use crate::runtime::connections::Stage;
use crate::runtime::stream::{Shared, Stream};

/// How long a connection that was closed by us is listened to, so that the close does not overtake the answer.
const READ_TO_NOWHERE: Duration = Duration::from_secs(1);

/// How long a server that stops waits for the first request of a connection that it has just taken.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Serves each accepted connection with `service`, on a task of its own.
pub(super) fn sink<S, B>(service: S, config: &Config) -> Sink
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_read_timeout)
        .max_buf_size(config.max_header_size);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(config.max_header_size).unwrap_or(u32::MAX));
    let builder = Arc::new(builder);
    Arc::new(move |stream| {
        tokio::spawn(serve(stream, builder.clone(), service.clone()));
    })
}

async fn serve<S, B>(stream: Stream, builder: Arc<Builder<TokioExecutor>>, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let shared = stream.shared();
    let mut stage = shared.guard.connections().watch();
    let service = Marked { service, connection: shared.clone() };
    {
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut told = false;
        loop {
            let now = *stage.borrow_and_update();
            if now == Stage::Hammered {
                break;
            }
            let goodbye = async {
                match now {
                    Stage::Serving | Stage::Hammered => std::future::pending().await,
                    _ if told => std::future::pending().await,
                    Stage::Stopping if shared.is_fresh() => tokio::time::sleep(FIRST_REQUEST).await,
                    Stage::Stopping => {}
                    Stage::Retiring { since, grace } => idle_for(&shared, since, grace).await,
                }
            };
            tokio::select! {
                biased;
                // An error is the client's: it went away, or sent what is no HTTP.
                _ = connection.as_mut() => break,
                _ = stage.changed() => {}
                () = goodbye => {
                    told = true;
                    // A request that is on its way is answered, and the answer says `Connection: close`.
                    if shared.is_http2() || shared.is_quiet() {
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    }
    if shared.guard.connections().is_leaving() && Arc::strong_count(&shared) == 1 {
        let _ = tokio::time::timeout(READ_TO_NOWHERE, shared.read_to_nowhere()).await;
    }
}

/// Waits until an idle connection of a retiring generation is to be closed; one of HTTP/2, which has a goodbye that races
/// with nothing, at once.
async fn idle_for(shared: &Shared, since: Instant, grace: Duration) {
    let until = since + grace + shared.guard.spread(grace / 4);
    let http2 = async {
        while !shared.is_http2() {
            shared.http2_seen.notified().await;
        }
    };
    tokio::select! {
        () = http2 => {}
        () = tokio::time::sleep_until(until) => {}
    }
}

/// The application's service, with what the end of a connection needs to know.
struct Marked<S> {
    service: S,
    connection: Arc<Shared>,
}

impl<S, B> Service<Request<Incoming>> for Marked<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.connection.heard();
        let version = request.version();
        if version == Version::HTTP_2 {
            self.connection.saw_http2();
        }
        Answer { answer: self.service.call(request), version, connection: self.connection.clone() }
    }
}

pin_project! {
    /// An answer that says goodbye if the generation retires.
    struct Answer<F> {
        #[pin]
        answer: F,
        version: Version,
        connection: Arc<Shared>,
    }
}

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut answer = ready!(this.answer.poll(cx));
        if let Ok(response) = &mut answer {
            let upgrades = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
            if this.connection.guard.connections().is_leaving() && *this.version <= Version::HTTP_11 && !upgrades {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
        Poll::Ready(answer)
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
