//! The answers of the application, with what the end of their connection needs.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use http::StatusCode;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::{Method, Request, Response, Version};
use pin_project_lite::pin_project;

use crate::model::pipeline::Framing;
use crate::runtime::connections::Kind;
use crate::runtime::stream::{Answering, Shared};

/// The application's service. It also records on the connection what the code that closes the connection needs to know.
pub(super) struct Marked<S> {
    pub(super) service: S,
    pub(super) connection: Arc<Shared>,
    /// Whether the requests count as the application's.
    pub(super) is_counted: bool,
}

impl<S, B> Service<Request<Incoming>> for Marked<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    B: Body,
{
    type Response = Response<Counted<B>>;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let version = request.version();
        let framing = (version <= Version::HTTP_11).then(|| framing(request.body()));
        let answering = Some(Answering::begin(&self.connection, framing, self.is_counted));
        let is_connect = request.method() == Method::CONNECT;
        // hyper leaves the body out with HTTP/1 only (src/proto/h2/server.rs, hyper 1.12).
        let is_head_of_http2 = request.method() == Method::HEAD && version > Version::HTTP_11;
        Answer { version, is_connect, is_head_of_http2, answer: self.service.call(request), answering }
    }
}

/// The framing of an HTTP/1 request body, as hyper has parsed it.
fn framing(body: &Incoming) -> Framing {
    body.size_hint().exact().map_or(Framing::Chunked, Framing::Length)
}

pin_project! {
    /// The future of a response, which says `Connection: close` if the generation is leaving.
    pub(super) struct Answer<F> {
        #[pin]
        answer: F,
        version: Version,
        is_connect: bool,
        is_head_of_http2: bool,
        answering: Option<Answering>,
    }
}

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<Counted<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let made = ready!(this.answer.poll(cx));
        let mut answering = this.answering.take();
        if let Some(answering) = &mut answering {
            match &made {
                Ok(response) => answering.responds(response.status().as_u16()),
                Err(_) => answering.fails(),
            }
        }
        let mut response = made?;
        if let Some(Answering { connection, .. }) = &answering {
            let status = response.status();
            let is_http1 = *this.version <= Version::HTTP_11;
            let is_upgrade = status == StatusCode::SWITCHING_PROTOCOLS || (*this.is_connect && status.is_success());
            if is_upgrade && is_http1 {
                connection.guard.becomes(Kind::Upgraded);
                connection.pipeline().forget();
            } else if is_upgrade {
                connection.tunnelled.store(true, Ordering::Relaxed);
            } else if is_http1 && connection.is_leaving() && !connection.waits() {
                say_close(&mut response, *this.version);
            }
        }
        let is_left_out = *this.is_head_of_http2;
        if is_left_out && let Some(length) = response.body().size_hint().exact() {
            // hyper sets this header only for a body that follows.
            response.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
        }
        Poll::Ready(Ok(response.map(|body| Counted { body, is_left_out, _answering: answering })))
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
    pub(super) struct Counted<B> {
        #[pin]
        body: B,
        // Whether the response is one to HEAD: its header says how long the body would be (RFC 9110, 9.3.2).
        is_left_out: bool,
        _answering: Option<Answering>,
    }
}

impl<B: Body> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        if *this.is_left_out {
            return Poll::Ready(None);
        }
        this.body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.is_left_out || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
