//! HTTP on accepted connections, and its end: no request is lost when a generation retires.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::sync::watch;

use super::{BoxError, sniff};
use crate::config::Config;
use crate::runtime::accept::Sink;
use crate::runtime::connections::{Kind, Stage};
use crate::runtime::stream::{Answering, Shared, Stream};

/// How long a connection that was closed by us is listened to, so that the close does not overtake the answer.
const READ_TO_NOWHERE: Duration = Duration::from_secs(1);

/// How long a server that stops waits for the first request of a connection that it has just taken.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// How both versions are served.
struct Http {
    one: http1::Builder,
    two: http2::Builder<TokioExecutor>,
    header_read_timeout: Duration,
}

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
    let header_read_timeout = config.header_read_timeout;
    let mut one = http1::Builder::new();
    // hyper's own header timeout sets a timer anew for each request; ours looks at the connection now and then.
    one.header_read_timeout(None).max_buf_size(config.max_header_size);
    let mut two = http2::Builder::new(TokioExecutor::new());
    two.timer(TokioTimer::new()).max_header_list_size(u32::try_from(config.max_header_size).unwrap_or(u32::MAX));
    let http = Arc::new(Http { one, two, header_read_timeout });
    Arc::new(move |stream| {
        tokio::spawn(serve(stream, http.clone(), service.clone()));
    })
}

async fn serve<S, B>(mut stream: Stream, http: Arc<Http>, service: S)
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
    let version = tokio::select! {
        biased;
        version = tokio::time::timeout(http.header_read_timeout, sniff::version(&mut stream)) => version.ok(),
        () = no_request_comes(&shared, &mut stage) => None,
    };
    let service = Marked { service, connection: shared.clone() };
    // An error is the client's: it went away, or sent what is no HTTP.
    match version {
        Some(Ok(Some(sniff::Version::One))) => {
            shared.guard.becomes(Kind::Http1);
            let connection = pin!(http.one.serve_connection(TokioIo::new(stream), service).with_upgrades());
            let silent = pin!(no_header_comes(&shared, http.header_read_timeout));
            let say = http1::UpgradeableConnection::graceful_shutdown;
            finish(connection, say, silent, &shared, &mut stage, Goodbye::WhenIdle).await;
        }
        Some(Ok(Some(sniff::Version::Two))) => {
            shared.guard.becomes(Kind::Http2);
            // Boxed, so that the task of an HTTP/1 connection is not as large as it.
            let mut connection = Box::pin(http.two.serve_connection(TokioIo::new(stream), service));
            // An idle connection is nothing unusual in HTTP/2.
            let silent = pin!(std::future::pending());
            let say = http2::Connection::graceful_shutdown;
            finish(connection.as_mut(), say, silent, &shared, &mut stage, Goodbye::AtOnce).await;
        }
        Some(Ok(None) | Err(_)) | None => drop(stream),
    }
    if shared.guard.connections().is_leaving() && Arc::strong_count(&shared) == 1 {
        let _ = tokio::time::timeout(READ_TO_NOWHERE, shared.read_to_nowhere()).await;
    }
}

/// When a retiring generation says goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goodbye {
    /// HTTP/1.1: with the next answer, or when the connection has been idle for long. To close it earlier races with the
    /// client's next request.
    WhenIdle,
    /// HTTP/2: its GOAWAY races with nothing (RFC 9113, 6.8).
    AtOnce,
}

/// Runs a connection to its end; `say` tells it to end when nothing is under way on it, `silent` when to give it up.
async fn finish<C: Future>(
    mut connection: Pin<&mut C>,
    say: impl FnOnce(Pin<&mut C>),
    mut silent: Pin<&mut impl Future<Output = ()>>,
    shared: &Shared,
    stage: &mut watch::Receiver<Stage>,
    goodbye: Goodbye,
) {
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        () = time_to_leave(shared, stage, goodbye) => {}
        () = silent.as_mut() => return,
    }
    // A request that is on its way is answered, and the answer says `Connection: close`.
    if goodbye == Goodbye::AtOnce || shared.is_quiet() {
        say(connection.as_mut());
    }
    tokio::select! {
        biased;
        _ = connection => {}
        _ = stage.wait_for(|stage| *stage == Stage::Hammered) => {}
        () = silent => {}
    }
}

/// Waits until the header of a request has been waited for as long as `timeout`, or up to a quarter more.
async fn no_header_comes(shared: &Shared, timeout: Duration) {
    const LOOKS: u32 = 4;
    let (mut requests, mut silent) = (shared.requests(), 0);
    while silent < LOOKS {
        tokio::time::sleep(timeout / LOOKS).await;
        let still = !shared.is_answering() && shared.requests() == requests;
        requests = shared.requests();
        silent = if still { silent + 1 } else { 0 };
    }
}

/// Waits until a connection on which nothing has come yet is given up.
async fn no_request_comes(shared: &Shared, stage: &mut watch::Receiver<Stage>) {
    time_to_leave(shared, stage, Goodbye::WhenIdle).await;
    if !shared.is_quiet() {
        let _ = stage.wait_for(|stage| *stage == Stage::Hammered).await;
    }
}

/// Waits until a connection is to be closed as soon as nothing is under way on it.
async fn time_to_leave(shared: &Shared, stage: &mut watch::Receiver<Stage>, goodbye: Goodbye) {
    loop {
        let now = *stage.borrow_and_update();
        let time = async {
            match now {
                Stage::Serving => std::future::pending().await,
                Stage::Retiring { .. } if goodbye == Goodbye::AtOnce => {}
                Stage::Retiring { since, grace } => {
                    tokio::time::sleep_until(since + grace + shared.guard.spread(grace / 4)).await;
                }
                Stage::Stopping if shared.is_fresh() => tokio::time::sleep(FIRST_REQUEST).await,
                Stage::Stopping | Stage::Hammered => {}
            }
        };
        tokio::select! {
            biased;
            () = time => return,
            _ = stage.changed() => {}
        }
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
    type Response = Response<Counted<B>>;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let answering = Some(Answering::begin(&self.connection));
        Answer { version: request.version(), answer: self.service.call(request), answering }
    }
}

pin_project! {
    /// An answer that says goodbye if the generation retires.
    struct Answer<F> {
        #[pin]
        answer: F,
        version: Version,
        answering: Option<Answering>,
    }
}

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<Counted<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.answer.poll(cx))?;
        let answering = this.answering.take();
        let is_leaving = answering.as_ref().is_some_and(|a| a.0.guard.connections().is_leaving());
        let upgrades = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
        if let (true, Some(Answering(connection))) = (upgrades, &answering) {
            connection.guard.becomes(Kind::Upgraded);
        }
        if is_leaving && *this.version <= Version::HTTP_11 && !upgrades {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response.map(|body| Counted { body, _answering: answering })))
    }
}

pin_project! {
    /// The body of an answer, which is being answered until it is dropped.
    struct Counted<B> {
        #[pin]
        body: B,
        _answering: Option<Answering>,
    }
}

impl<B: Body> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
