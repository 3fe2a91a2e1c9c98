//! The progress of a reload, line by line, until the end.

use std::path::{Path, PathBuf};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::task::JoinSet;

use super::error::{ControlError, ControlErrorKind};
use super::request::{Answer, of_protocol};
use crate::model::identity::Pid;
use crate::model::progress::Progress;

/// The longest line that is accepted, in bytes.
const LINE_MAX: usize = 1 << 20;

/// How far a reload is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowUntil {
    /// Until the outcome of the reload is known.
    Outcome,
    /// Until the old generation has ended as well, if the outcome is [`Done`](crate::Outcome::Done).
    Gone,
}

/// The progress of a reload. Dropping this value ends the following, not the reload.
///
/// Not `Clone`: each line is returned once.
#[derive(Debug)]
pub struct ReloadProgress {
    path: PathBuf,
    body: Incoming,
    /// Bytes that were received; those from `told` on were not returned yet.
    received: Vec<u8>,
    told: usize,
    line: String,
    peer: Pid,
    is_decided: bool,
    _connection: JoinSet<()>,
}

impl ReloadProgress {
    pub(super) fn new(path: &Path, answer: Answer) -> ReloadProgress {
        ReloadProgress {
            path: path.to_owned(),
            body: answer.body,
            received: Vec::new(),
            told: 0,
            line: String::new(),
            peer: answer.peer.pid,
            is_decided: false,
            _connection: answer.connection,
        }
    }

    /// Waits for the next event; `None` at the end, which comes after the outcome only. There is no time limit: the
    /// call waits as long as nothing happens. Cancel safe.
    ///
    /// # Errors
    /// [`Lost`](ControlErrorKind::Lost) if the connection ends before the outcome,
    /// [`Protocol`](ControlErrorKind::Protocol) for a line that is not understood, and for a line of more than 1 MB.
    pub async fn next(&mut self) -> Result<Option<Progress>, ControlError> {
        loop {
            if let Some(line) = self.take_line()? {
                let progress = understand(&line).map_err(|error| of_protocol(&self.path, error))?;
                self.is_decided |= matches!(progress, Progress::Outcome(_));
                self.line = line;
                return Ok(Some(progress));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.received.extend(frame.data_ref().into_iter().flatten()),
                // The outcome is known, so the reason for the end of the stream does not matter.
                _ if self.is_decided => return Ok(None),
                Some(Err(error)) => {
                    return Err(ControlError::because(ControlErrorKind::Lost, self.lost(), error));
                }
                None => return Err(ControlError::new(ControlErrorKind::Lost, self.lost())),
            }
        }
    }

    /// The original line of the event that [`next`](ReloadProgress::next) returned last: one JSON object. Empty before
    /// the first event.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// The process that runs the reload, as this process's pid namespace numbers it; 0 if the process is outside of
    /// that namespace.
    pub fn pid(&self) -> Pid {
        self.peer
    }

    /// The next whole line that is not empty.
    fn take_line(&mut self) -> Result<Option<String>, ControlError> {
        loop {
            let rest = &self.received[self.told..];
            let end = rest.iter().position(|byte| *byte == b'\n');
            if end.unwrap_or(rest.len()) > LINE_MAX {
                return Err(of_protocol(&self.path, format!("a line of more than {LINE_MAX} bytes")));
            }
            let Some(end) = end else {
                self.received.drain(..self.told);
                self.told = 0;
                return Ok(None);
            };
            let line = std::str::from_utf8(&rest[..end]).map(|line| line.trim().to_owned());
            self.told += end + 1;
            let line = line.map_err(|error| of_protocol(&self.path, error))?;
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn lost(&self) -> String {
        format!("the connection to process {} ended before the outcome", self.peer)
    }
}

/// Parses a line. A line of a later version may name a phase that this version does not know: that is no error.
fn understand(line: &str) -> serde_json::Result<Progress> {
    #[derive(serde::Deserialize)]
    struct Any {
        #[serde(rename = "event")]
        _event: String,
    }
    serde_json::from_str(line).or_else(|error| match serde_json::from_str::<Any>(line) {
        Ok(_) => Ok(Progress::Unknown),
        Err(_) => Err(error),
    })
}
