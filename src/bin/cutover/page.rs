//! The built-in page, which shows which process answers.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cutover::{Generation, Started};
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};

/// What the page shows.
#[derive(Debug, Clone)]
pub(crate) struct Page(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    generation: OnceLock<Generation>,
    began: Instant,
    answered: AtomicU64,
}

impl Page {
    pub(crate) fn new() -> Page {
        Page(Arc::new(Facts { generation: OnceLock::new(), began: Instant::now(), answered: AtomicU64::new(0) }))
    }

    pub(crate) fn before_begin(&self, started: &Started) {
        // Called once, before the first request.
        let _ = self.0.generation.set(started.generation);
    }

    pub(crate) fn answer(&self, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let mut text = String::new();
        let status = match *request.method() {
            Method::GET | Method::HEAD => {
                self.write(&mut text);
                StatusCode::OK
            }
            _ => StatusCode::METHOD_NOT_ALLOWED,
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        Ok(response)
    }

    fn write(&self, text: &mut String) {
        let generation = self.0.generation.get().copied().unwrap_or(Generation::FIRST);
        let answered = self.0.answered.fetch_add(1, Ordering::Relaxed) + 1;
        let up = self.0.began.elapsed().as_secs();
        let pid = std::process::id();
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "cutover {version}\n\npid {pid}\ngeneration {generation}\nup {up} s\nanswered {answered}\n\n\
             kill -HUP {pid}    and the next answer comes from another process",
            version = env!("CARGO_PKG_VERSION"),
        );
    }
}
