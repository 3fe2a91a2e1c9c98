//! What a rollout tells those who watch it: its phases, its outcome.

use std::fmt;
use std::time::Duration;

use super::identity::{Generation, Pid};

/// Where a generation stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Ready, but another generation is still the live one.
    Standby,
    /// The live generation; no rollout is under way.
    Serving,
    /// A reload was asked for: the executable is looked for, and the application asked whether it agrees.
    Preflight,
    /// The next generation was spawned, and is not ready.
    Starting,
    /// The next generation said that it is ready; blue looks whether it really listens.
    Verifying,
    /// New connections are being moved to the next generation.
    CuttingOver,
    /// The rollout failed; the next generation is being ended, this one serves on.
    RollingBack,
    /// No new connections come any more; those under way are being taken in, and the listeners closed.
    Retiring,
    /// Finishing the connections that it has.
    Draining,
    /// Nothing is left to do.
    Gone,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Standby => "standby",
            Phase::Serving => "serving",
            Phase::Preflight => "preflight",
            Phase::Starting => "starting",
            Phase::Verifying => "verifying",
            Phase::CuttingOver => "cutting over",
            Phase::RollingBack => "rolling back",
            Phase::Retiring => "retiring",
            Phase::Draining => "draining",
            Phase::Gone => "gone",
        })
    }
}

/// How a reload ended. Each reload that was begun has exactly one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The next generation is live, and this one retires.
    #[non_exhaustive]
    Done {
        /// The generation that is live now.
        generation: Generation,
        /// Its process.
        pid: Pid,
        /// From the request to the moment at which all new connections went to it.
        took: Duration,
    },
    /// The next generation did not make it; this one serves on, with nothing lost.
    #[non_exhaustive]
    RolledBack {
        /// The generation that failed.
        generation: Generation,
        /// What failed, on which object.
        reason: String,
        /// From the request to the end of the attempt.
        took: Duration,
    },
}

/// One thing that happened in the life of this generation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It went from one phase to another.
    #[non_exhaustive]
    Phase {
        /// The phase before.
        from: Phase,
        /// The phase now.
        to: Phase,
    },
    /// A reload ended.
    Reload(Outcome),
    /// A reload was asked for and not begun, because of this.
    Refused(String),
}
