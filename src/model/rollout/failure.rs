//! Why a rollout was given up.

use std::fmt::Display;
use std::time::Duration;

use super::plan::{KILL, STEP};
use crate::model::identity::Generation;

/// The reason for a rollback, in words that go on after "generation 2".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// A step of the host has failed: the text of the host's own error.
    #[error("{0}")]
    Step(String),
    #[error(
        "was not started: its preflight (the disk of its executable, the hook or the check) has not answered in {0:?}"
    )]
    NoPreflight(Duration),
    #[error("could not be started: an earlier generation still listens")]
    NoGate,
    #[error("could not be started in {STEP:?}")]
    NotStarted,
    #[error("did not become ready in {0:?}")]
    NotReady(Duration),
    #[error("could not be verified in {STEP:?}")]
    NotVerified,
    #[error("was not probed within the probe timeout and {STEP:?} more")]
    NotProbed,
    #[error("could not be steered to in {STEP:?}")]
    NotSteeredTo,
    /// The process of the next generation has ended by itself.
    #[error("{how} {when}")]
    Exited { how: String, when: &'static str },
    #[error("is gone")]
    Gone,
    #[error("was rolled back on request")]
    OnRequest,
    #[error("was given up: a stop was asked for")]
    Stop,
    #[error("was given up: a stop at once was asked for")]
    StopAtOnce,
    #[error("was given up: generation {0} has ended")]
    BlueEnded(Generation),
    #[error("{0}; its process is not gone {KILL:?} after it was killed")]
    NotGone(Box<Failure>),
}

impl Failure {
    /// A step of the host has failed with this error.
    pub(crate) fn step(error: &impl Display) -> Failure {
        Failure::Step(error.to_string())
    }
}
