//! What a rollout reports to its observers: its phases and its outcome.

use std::fmt;
use std::time::Duration;

use super::identity::{Generation, Pid};
use super::seconds;
use super::share::Share;

/// A phase in the life of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Ready, but another generation is still the live one.
    Standby,
    /// The live generation; no rollout is under way.
    Serving,
    /// A reload was requested: blue looks for the executable, asks the application whether it agrees, and steers all new
    /// connections to itself.
    Preflight,
    /// The next generation is being spawned, or is not ready yet.
    Starting,
    /// The next generation has reported readiness; blue checks whether it really listens.
    Verifying,
    /// Blue sends a request of its own to the next generation, to find out whether it serves; no user reaches it yet.
    Probing,
    /// The next generation gets a part of the new connections.
    Canary,
    /// New connections are being moved to the next generation.
    CuttingOver,
    /// All new connections go to the next generation, and can still be taken back.
    Soaking,
    /// The rollout failed; the next generation is being ended, this one serves on.
    RollingBack,
    /// No new connections come any more; connections in flight are being accepted, and the listeners closed.
    Retiring,
    /// The generation finishes its open connections.
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
            Phase::Probing => "probing",
            Phase::Canary => "canary",
            Phase::CuttingOver => "cutting over",
            Phase::Soaking => "soaking",
            Phase::RollingBack => "rolling back",
            Phase::Retiring => "retiring",
            Phase::Draining => "draining",
            Phase::Gone => "gone",
        })
    }
}

/// How a reload ended. Each reload that was begun has exactly one outcome.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The next generation is live, and this one retires.
    #[non_exhaustive]
    Done {
        /// The generation that is live now.
        generation: Generation,
        /// The process of that generation.
        pid: Pid,
        /// The time from the request to the point of no return, when all new connections go to that generation.
        #[serde(with = "seconds")]
        took: Duration,
    },
    /// The next generation failed; this one serves on, with nothing lost.
    #[non_exhaustive]
    RolledBack {
        /// The generation that failed.
        generation: Generation,
        /// What failed, and on which object.
        reason: String,
        /// The time from the request to the end of the attempt.
        #[serde(with = "seconds")]
        took: Duration,
    },
}

/// One event in the life of this generation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The generation went from one phase to another.
    #[non_exhaustive]
    Phase {
        /// The phase before.
        from: Phase,
        /// The phase now.
        to: Phase,
    },
    /// A step of the canary began: the next generation gets this part of the new connections, for this long.
    #[non_exhaustive]
    Canary {
        /// The part of the new connections.
        share: Share,
        /// How long the step lasts.
        time: Duration,
    },
    /// All new connections go to the next generation, and can be taken back for this long.
    #[non_exhaustive]
    Soak {
        /// How long the old generation can take them back.
        time: Duration,
    },
    /// A reload ended.
    Reload(Outcome),
    /// A request (a reload, a promotion or a rollback) was refused, for this reason.
    Refused(String),
}
