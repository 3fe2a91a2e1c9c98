//! The HTTP requests of the control socket, and their answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Instant;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::clients::{Busy, Client};
use super::endpoint::{ControlTarget, Counts, LiveEndpoint};
use super::follow::{FollowUntil, Follower, LINES};
use super::metrics;
use crate::model::rollout::RolloutEvent;
use crate::model::status::{Refusal, RolloutStatus, Status};
use crate::runtime::input::{Ask, Input, Refused};
use crate::runtime::offload::LOOK_MAX;
use crate::runtime::status::Depth;

/// The answer to a client of another user.
pub(super) const FORBIDDEN: &[u8] =
    b"HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\ncontent-length: 86\r\n\
    connection: close\r\n\r\n\
    {\"error\":\"only the user that runs this server, and root, may use its control socket\"}\n";

type Body = BoxBody<Bytes, Infallible>;

/// The HTTP service of one connection.
#[derive(Debug, Clone)]
pub(super) struct Service {
    control_target: ControlTarget,
    client: Client,
    ending: watch::Receiver<bool>,
}

impl Service {
    pub(super) fn new(control_target: ControlTarget, client: Client, ending: watch::Receiver<bool>) -> Service {
        Service { control_target, client, ending }
    }
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (endpoint, busy, mut ending) = (self.control_target.now(), self.client.busy(), self.ending.clone());
        Box::pin(async move {
            Ok(tokio::select! {
                biased;
                answer = endpoint.answer(&request, busy) => answer,
                // The driver does not answer any more.
                _ = ending.wait_for(|ending| *ending) => refuse(StatusCode::SERVICE_UNAVAILABLE, "this generation is gone: ask again"),
            })
        })
    }
}

impl LiveEndpoint {
    async fn answer(&self, request: &Request<Incoming>, busy: Busy) -> Response<Body> {
        let allowed = match request.uri().path() {
            "/v1/status" | "/metrics" => Method::GET,
            "/v1/reload" | "/v1/promote" | "/v1/rollback" | "/v1/stop" => Method::POST,
            other => return refuse(StatusCode::NOT_FOUND, &format!("there is no {other} here")),
        };
        if request.method() != allowed {
            let why = format!("{} takes {allowed} only", request.uri().path());
            let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, &why);
            let allow = if allowed == Method::GET { "GET" } else { "POST" };
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            return answer;
        }
        match request.uri().path() {
            "/v1/status" => match self.status(Depth::All).await {
                Ok(status) => json(StatusCode::OK, &status),
                Err(refused) => refused_by(&refused),
            },
            "/metrics" => self.metrics().await,
            "/v1/reload" => self.reload(request.uri().query(), busy).await,
            "/v1/promote" => self.done(RolloutEvent::PromoteRequested).await,
            "/v1/rollback" => self.done(RolloutEvent::RollbackRequested).await,
            _ => self.done(RolloutEvent::StopRequested).await,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    async fn status(&self, depth: Depth) -> Result<Status, Refused> {
        let (reply, status) = oneshot::channel();
        let asked = self.inputs.send(Input::Ask(Ask::Status { depth, reply })).await;
        asked.map_err(|_| Refused::gone())?;
        let draft = status.await.map_err(|_| Refused::gone())??;
        // If the kernel does not answer in time, the status holds only what this process knows.
        let known = draft.status.clone();
        Ok(self.looks.run_within(LOOK_MAX, move || draft.finish()).await.unwrap_or(known))
    }

    async fn ask(&self, event: RolloutEvent) -> Result<Option<RolloutStatus>, Refused> {
        let (reply, answer) = oneshot::channel();
        self.inputs.send(Input::Ask(Ask::Do { event, reply })).await.map_err(|_| Refused::gone())?;
        answer.await.map_err(|_| Refused::gone())?
    }

    async fn done(&self, event: RolloutEvent) -> Response<Body> {
        match self.ask(event).await {
            Ok(_) => json(StatusCode::ACCEPTED, &serde_json::Map::new()),
            Err(refused) => refused_by(&refused),
        }
    }

    async fn reload(&self, query: Option<&str>, busy: Busy) -> Response<Body> {
        let until = match query {
            None | Some("" | "drain=false") => FollowUntil::Outcome,
            Some("drain" | "drain=true") => FollowUntil::Gone,
            Some(other) => {
                return refuse(StatusCode::BAD_REQUEST, &format!("?{other} is not understood; there is ?drain=true"));
            }
        };
        // Subscribed before the reload is requested, so that no event of it is missed.
        let (events, began) = (self.events.subscribe(), Instant::now());
        let rollout = match self.ask(RolloutEvent::ReloadRequested).await {
            Ok(Some(rollout)) => rollout,
            Ok(None) => return refused_by(&Refused::gone()),
            Err(refused) => return refused_by(&refused),
        };
        let (lines, to_write) = mpsc::channel(LINES);
        let follower = Follower {
            generation: rollout.generation,
            until,
            began,
            events,
            counts: self.counts.clone(),
            passed_on: self.passed_on.clone(),
            lines,
            _busy: busy,
        };
        tokio::spawn(follower.run());
        let mut answer = Response::new(StreamBody::new(ReceiverStream::new(to_write)).boxed());
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        answer
    }

    async fn metrics(&self) -> Response<Body> {
        let depth = match self.counts {
            Counts::Own(_) => Depth::Own,
            Counts::Watched(_) => Depth::All,
        };
        match self.status(depth).await {
            Ok(status) => {
                let mut answer = Response::new(Full::from(metrics::text(&status, &self.counts)).boxed());
                answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT));
                answer
            }
            Err(refused) => refused_by(&refused),
        }
    }
}

/// `GET /metrics` and nothing else, for a TCP listener.
pub(crate) fn metrics_service(
    control_target: ControlTarget,
) -> impl hyper::service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send
+ Sync
+ 'static {
    hyper::service::service_fn(move |request: Request<Incoming>| {
        let endpoint = control_target.now();
        async move {
            let mut answer = match (request.method(), request.uri().path()) {
                (&Method::GET, "/metrics") => endpoint.metrics().await,
                (_, "/metrics") => refuse(StatusCode::METHOD_NOT_ALLOWED, "/metrics takes GET only"),
                _ => refuse(StatusCode::NOT_FOUND, "there is /metrics here, and nothing else"),
            };
            // A scraper that keeps its connection open would delay each drain until the connection has been idle for
            // long.
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            Ok(answer)
        }
    })
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Serialization of plain data does not fail.
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    let mut answer = Response::new(Full::from(text).boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn refuse(status: StatusCode, error: &str) -> Response<Body> {
    json(status, &Refusal { error: error.to_owned() })
}

fn refused_by(refused: &Refused) -> Response<Body> {
    match refused {
        Refused::WrongTime(why) => refuse(StatusCode::CONFLICT, why),
        Refused::Retired(why) => refuse(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}
