//! HTTP on accepted connections. No request is lost when a generation retires and its connections end.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use http::header::{CONNECTION, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper::{Method, Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pin_project_lite::pin_project;

use super::connection_close::{self, CloseTiming};
use super::http_version;
use crate::config::Config;
use crate::model::pipeline::Framing;
use crate::runtime::accept::Sink;
use crate::runtime::connections::Kind;
use crate::runtime::stream::{Answering, Shared, Stream};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The settings by which both HTTP versions are served.
struct Http {
    one: http1::Builder,
    two: http2::Builder<TokioExecutor>,
    header_read_timeout: Duration,
    /// How many bytes are read, at most, before a header among them is handed to the application.
    read_ahead_max: usize,
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
    // hyper's own header timeout sets a new timer for each request; `no_header_comes` checks the connection a few times
    // per timeout instead.
    one.header_read_timeout(None).max_buf_size(config.max_header_size).half_close(config.half_close);
    let mut two = http2::Builder::new(TokioExecutor::new());
    two.timer(TokioTimer::new()).max_header_list_size(u32::try_from(config.max_header_size).unwrap_or(u32::MAX));
    // hyper reads while its buffer holds less than the largest header, and such a read may fill the room that was reserved
    // before, which is not more than that (`Buffered::poll_read_from_io` in src/proto/h1/io.rs, hyper 1.12).
    let read_ahead_max = http_version::FIRST + 2 * config.max_header_size;
    let http = Arc::new(Http { one, two, header_read_timeout, read_ahead_max });
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
    shared.pipeline().follow(http.read_ahead_max);
    let mut stage = shared.guard.connections().watch();
    let mut silent = pin!(connection_close::no_header_comes(&shared, http.header_read_timeout));
    let version = tokio::select! {
        biased;
        version = http_version::version(&mut stream) => Some(version),
        () = silent.as_mut() => None,
        () = connection_close::no_request_comes(&shared, &mut stage) => None,
    };
    let service = Marked { service, connection: shared.clone() };
    // An error is the client's: the client went away, or did not send HTTP.
    match version {
        Some(Ok(Some(http_version::Version::One))) => {
            shared.guard.becomes(Kind::Http1);
            let connection = pin!(http.one.serve_connection(TokioIo::new(stream), service).with_upgrades());
            let say = http1::UpgradeableConnection::graceful_shutdown;
            connection_close::finish(connection, say, silent, &shared, &mut stage, CloseTiming::WhenIdle).await;
        }
        Some(Ok(Some(http_version::Version::Two))) => {
            shared.guard.becomes(Kind::Http2);
            shared.pipeline().forget();
            // Boxed, so that the task of an HTTP/1 connection does not grow to the size of an HTTP/2 connection.
            let mut connection = Box::pin(http.two.serve_connection(TokioIo::new(stream), service));
            // Idle connections are normal in HTTP/2, so silence is no reason to give one up.
            let silent = pin!(std::future::pending());
            let say = http2::Connection::graceful_shutdown;
            connection_close::finish(connection.as_mut(), say, silent, &shared, &mut stage, CloseTiming::AtOnce).await;
        }
        // With the service, whose share of the connection would be in the way of the close below.
        Some(Ok(None) | Err(_)) | None => drop((stream, service)),
    }
    // An upgraded connection has another part, which belongs to the application and is ended by the application.
    if shared.guard.connections().is_leaving() && Arc::strong_count(&shared) == 1 {
        connection_close::close(&shared, &mut stage).await;
    }
}

/// The application's service. It also records on the connection what the code that closes the connection needs to know.
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
        let version = request.version();
        let framing = (version <= Version::HTTP_11).then(|| framing(request.body()));
        let answering = Some(Answering::begin(&self.connection, framing));
        let is_connect = request.method() == Method::CONNECT;
        Answer { version, is_connect, answer: self.service.call(request), answering }
    }
}

/// The framing of an HTTP/1 request body, as hyper has parsed it.
fn framing(body: &Incoming) -> Framing {
    body.size_hint().exact().map_or(Framing::Chunked, Framing::Length)
}

pin_project! {
    /// The future of a response, which says `Connection: close` if the generation is leaving.
    struct Answer<F> {
        #[pin]
        answer: F,
        version: Version,
        is_connect: bool,
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
        if let (Some(Answering(connection)), true) = (&answering, *this.version <= Version::HTTP_11) {
            let status = response.status();
            if status == StatusCode::SWITCHING_PROTOCOLS || (*this.is_connect && status.is_success()) {
                connection.guard.becomes(Kind::Upgraded);
                connection.pipeline().forget();
            } else if connection.guard.connections().is_leaving() && !connection.waits() {
                say_close(&mut response, *this.version);
            }
        }
        Poll::Ready(Ok(response.map(|body| Counted { body, _answering: answering })))
    }
}

/// Says that no further request is taken on the connection.
fn say_close<B>(response: &mut Response<B>, version: Version) {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    if version == Version::HTTP_10 {
        // hyper would add `keep-alive` to a response of HTTP/1.1 (`fix_keep_alive` in src/proto/h1/conn.rs, hyper
        // 1.12).
        *response.version_mut() = Version::HTTP_10;
    }
}

pin_project! {
    /// The body of a response. Its request counts as being answered until the body is dropped.
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
mod tests;
