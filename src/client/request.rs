//! One request on the control socket, and its answer. The request is repeated while one generation hands the socket on
//! to the next.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::error::{ControlError, ControlErrorKind};
use crate::model::identity::Pid;
use crate::model::status::Refusal;
use crate::sys::control_folder;

/// The largest answer that is accepted, in bytes, where the answer is not a stream.
const ANSWER_MAX: usize = 16 << 20;

/// Pause between two attempts. The next generation has bound its socket by then, or will soon.
const PAUSE: Duration = Duration::from_millis(20);

/// The time limits of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For an answer, or for the head of a streamed answer.
    pub(super) answer: Duration,
    /// For repeating the request until a generation that does not retire answers.
    pub(super) again: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { answer: Duration::from_secs(10), again: Duration::from_secs(5) }
    }
}

/// An answer of which only the head was received.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) body: Incoming,
    /// The process that answers.
    pub(super) peer: Peer,
    /// The task that drives the connection. The connection ends when this is dropped.
    pub(super) connection: JoinSet<()>,
    by: Instant,
}

/// The result of one attempt, other than an error.
enum Attempt {
    Answered(Response<Incoming>, Peer, JoinSet<()>),
    /// The process that was asked hands the socket on, or has died.
    Again(ControlError),
}

/// The process that called listen(2) on the socket, and its user at that moment (SO_PEERCRED, unix(7)): the generation that
/// owns the socket. The number of the process may be another's by now, and the process may have another user; the user of
/// the socket stays.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// 0 if the process is outside of this PID namespace.
    pub(super) pid: Pid,
    pub(super) uid: u32,
}

/// Sends the request, and returns the head of a successful answer.
pub(super) async fn ask(path: &Path, how: Patience, method: Method, target: &str) -> Result<Answer, ControlError> {
    let again_until = Instant::now() + how.again;
    loop {
        let by = Instant::now() + how.answer;
        let attempt =
            timeout_at(by, attempt(path, &method, target)).await.unwrap_or_else(|_| Err(silent(path, how)))?;
        let again = match attempt {
            Attempt::Answered(response, peer, connection) if response.status().is_success() => {
                return Ok(Answer { body: response.into_body(), peer, connection, by });
            }
            Attempt::Answered(response, _, _connection) => {
                let status = response.status();
                let body = whole(path, how, response.into_body(), by).await?;
                let refusal = refusal(path, status, &body);
                if status != StatusCode::SERVICE_UNAVAILABLE {
                    return Err(refusal);
                }
                refusal
            }
            Attempt::Again(error) => error,
        };
        if Instant::now() >= again_until {
            return Err(again);
        }
        sleep(PAUSE).await;
    }
}

/// Sends the request, and returns the whole answer, and the process that answers.
pub(super) async fn ask_whole(
    path: &Path,
    how: Patience,
    method: Method,
    target: &str,
) -> Result<(Bytes, Peer), ControlError> {
    let answer = ask(path, how, method, target).await?;
    Ok((whole(path, how, answer.body, answer.by).await?, answer.peer))
}

async fn attempt(path: &Path, method: &Method, target: &str) -> Result<Attempt, ControlError> {
    let stream = connect(path).await?;
    let credentials = stream.peer_cred().map_err(|error| of_system(path, error))?;
    let pid = Pid::new(credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0));
    let peer = Peer { pid, uid: credentials.uid() };
    let lost = |error: hyper::Error| {
        let message = format!("process {pid} closed the connection on {} without an answer", path.display());
        ControlError::because(ControlErrorKind::Lost, message, error)
    };
    let (mut sender, connection) = match http1::handshake(TokioIo::new(stream)).await {
        Ok(pair) => pair,
        Err(error) => return Ok(Attempt::Again(lost(error))),
    };
    let mut driving = JoinSet::new();
    driving.spawn(async move {
        // An error of the connection is reported where the answer is read.
        let _ = connection.await;
    });
    let request = Request::builder().method(method).uri(target).header(hyper::header::HOST, "cutover");
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| of_protocol(path, error))?;
    match sender.send_request(request).await {
        Ok(response) => Ok(Attempt::Answered(response, peer, driving)),
        Err(error) if is_end(&error) => Ok(Attempt::Again(lost(error))),
        Err(error) => Err(of_protocol(path, error)),
    }
}

/// Whether the connection ended before an answer.
fn is_end(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    error.is_canceled() || error.is_closed() || error.is_incomplete_message() || cause.is_some()
}

async fn connect(path: &Path) -> Result<UnixStream, ControlError> {
    control_folder::check_length(path)
        .map_err(|error| ControlError::new(ControlErrorKind::NoInstance, error.to_string()))?;
    loop {
        let before = file(path);
        let error = match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        match error.kind() {
            // The accept queue is full, and connect(2) does not report when there is room again. The caller limits the
            // time.
            io::ErrorKind::WouldBlock => sleep(PAUSE).await,
            // Another generation renamed its socket over the one that was looked up, and that one was closed.
            io::ErrorKind::ConnectionRefused if file(path) != before => {}
            io::ErrorKind::ConnectionRefused => return Err(no_instance(path, "its process is gone")),
            io::ErrorKind::NotFound => return Err(no_instance(path, "there is no such socket")),
            io::ErrorKind::PermissionDenied => {
                let message = format!("{} belongs to another user", path.display());
                return Err(ControlError::because(ControlErrorKind::Denied, message, error));
            }
            _ => return Err(of_system(path, error)),
        }
    }
}

fn no_instance(path: &Path, why: &str) -> ControlError {
    ControlError::new(ControlErrorKind::NoInstance, format!("no instance runs at {}: {why}", path.display()))
}

/// The identity of a file: it changes when another file is renamed over this one.
#[expect(clippy::disallowed_methods, reason = "a client waits for its own folders only")]
fn file(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

async fn whole(path: &Path, how: Patience, body: Incoming, by: Instant) -> Result<Bytes, ControlError> {
    let collected = timeout_at(by, Limited::new(body, ANSWER_MAX).collect()).await.map_err(|_| silent(path, how))?;
    collected.map(http_body_util::Collected::to_bytes).map_err(|error| {
        let kind = if error.is::<hyper::Error>() { ControlErrorKind::Lost } else { ControlErrorKind::Protocol };
        ControlError::because(kind, format!("the answer on {} cannot be read to its end", path.display()), error)
    })
}

fn refusal(path: &Path, status: StatusCode, body: &[u8]) -> ControlError {
    let kind = match status {
        StatusCode::FORBIDDEN => ControlErrorKind::Denied,
        StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE => ControlErrorKind::Refused,
        _ => ControlErrorKind::Protocol,
    };
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => ControlError::new(kind, refusal.error),
        Err(_) => ControlError::new(kind, format!("the answer on {} is {status}", path.display())),
    }
}

fn silent(path: &Path, how: Patience) -> ControlError {
    let message = format!("no answer on {} in {:?}: the process hangs", path.display(), how.answer);
    ControlError::new(ControlErrorKind::Lost, message)
}

fn of_system(path: &Path, error: io::Error) -> ControlError {
    ControlError::because(ControlErrorKind::System, format!("cannot connect to {}", path.display()), error)
}

pub(super) fn of_protocol(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ControlError {
    let message = format!("the answer on {} is not that of an instance", path.display());
    ControlError::because(ControlErrorKind::Protocol, message, error)
}
