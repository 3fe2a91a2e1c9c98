//! Follows a reload: sends one line of JSON for each of its transitions, until the outcome or the end of the old
//! generation.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Frame;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};

use super::clients::Busy;
use super::endpoint::Counts;
use crate::model::event::{Event, Outcome, Phase};
use crate::model::identity::Generation;
use crate::model::progress::Progress;

/// How many lines wait for a client that does not read.
pub(super) const LINES: usize = 16;
/// Interval between two counts of the connections during a drain. The count is for people to read: a line for each
/// connection that ends would be too many.
const COUNT: Duration = Duration::from_millis(250);

/// How long a reload is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FollowUntil {
    Outcome,
    /// The old generation is gone.
    Gone,
}

/// One client that follows one reload.
pub(super) struct Follower {
    pub(super) generation: Generation,
    pub(super) until: FollowUntil,
    pub(super) began: Instant,
    pub(super) events: broadcast::Receiver<Event>,
    pub(super) counts: Counts,
    /// Becomes true when the next generation has taken the leadership, so that a question after the outcome reaches
    /// that generation.
    pub(super) passed_on: watch::Receiver<bool>,
    pub(super) lines: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
    pub(super) _busy: Busy,
}

/// Whether more lines follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Yes,
    No,
}

impl Follower {
    /// Follows to the end, or until the client is gone.
    pub(super) async fn run(mut self) {
        let mut told = None;
        let mut draining = false;
        loop {
            let next = tokio::select! {
                event = self.events.recv() => event,
                // There is no event for the number of open connections.
                () = tokio::time::sleep(COUNT), if draining => {
                    let open = self.counts.open();
                    if told.replace(open) != Some(open) && self.draining(open).await == More::No {
                        return;
                    }
                    continue;
                }
                () = self.lines.closed() => return,
            };
            let more = match next {
                Ok(event) => {
                    let begins = matches!(event, Event::Phase { to: Phase::Draining, .. });
                    draining |= begins;
                    let open = self.counts.open();
                    match self.tell(event).await {
                        // The first count is sent at once, so that a short drain has one too.
                        More::Yes if begins && open > 0 => {
                            told = Some(open);
                            self.draining(open).await
                        }
                        more @ (More::Yes | More::No) => more,
                    }
                }
                // A client that does not read misses lines, but never the last one.
                Err(RecvError::Lagged(_)) => More::Yes,
                Err(RecvError::Closed) => More::No,
            };
            if more == More::No {
                return;
            }
        }
    }

    async fn draining(&self, open: usize) -> More {
        self.line(&Progress::Draining { connections: u64::try_from(open).unwrap_or(u64::MAX) }).await
    }

    async fn tell(&mut self, event: Event) -> More {
        match event {
            Event::Phase { to: Phase::Gone, .. } => {
                self.line(&Progress::Gone).await;
                More::No
            }
            // The outcome says the same.
            Event::Phase { to: Phase::Serving, .. } => More::Yes,
            Event::Phase { to: phase, .. } => {
                let (generation, elapsed) = (self.generation, self.began.elapsed());
                self.line(&Progress::Phase { generation, phase, elapsed }).await
            }
            Event::Canary { share, time } => self.line(&Progress::Canary { share, time }).await,
            Event::Soak { time } => self.line(&Progress::Soak { time }).await,
            Event::Reload(outcome) => self.outcome(outcome).await,
            Event::Refused(_) => More::Yes,
        }
    }

    async fn outcome(&mut self, outcome: Outcome) -> More {
        let done = matches!(outcome, Outcome::Done { .. });
        if done {
            // An error means that the driver is gone; then there is nothing to wait for.
            let _ = self.passed_on.wait_for(|passed| *passed).await;
        }
        let more = self.line(&Progress::Outcome(outcome)).await;
        if done && self.until == FollowUntil::Gone { more } else { More::No }
    }

    async fn line(&self, progress: &Progress) -> More {
        let Ok(mut line) = serde_json::to_vec(progress) else { return More::Yes };
        line.push(b'\n');
        match self.lines.send(Ok(Frame::data(line.into()))).await {
            Ok(()) => More::Yes,
            Err(_) => More::No,
        }
    }
}
