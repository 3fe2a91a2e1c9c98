//! What a rollout tells those who watch it: its phases, its outcome.

use std::fmt;
use std::time::Duration;

use super::identity::{Generation, Pid};
use super::seconds;
use super::share::Share;

/// Where a generation stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
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
    /// The next generation is asked whether it serves, by a request of blue's own; no user reaches it yet.
    Probing,
    /// The next generation gets a part of the new connections.
    Canary,
    /// New connections are being moved to the next generation.
    CuttingOver,
    /// All new connections go to the next generation, and can still be taken back.
    Soaking,
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

/// How a reload ended. Each reload that was begun has exactly one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
        /// From the request to the point of no return: all new connections go to it.
        #[serde(with = "seconds")]
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
        #[serde(with = "seconds")]
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
    /// A step of the canary began: the next generation gets this part of the new connections, for this long.
    #[non_exhaustive]
    Canary {
        /// The part.
        share: Share,
        /// How long.
        time: Duration,
    },
    /// All new connections go to the next generation, and can be taken back for this long.
    #[non_exhaustive]
    Soak {
        /// How long.
        time: Duration,
    },
    /// A reload ended.
    Reload(Outcome),
    /// What was asked for (a reload, a promotion, a rollback) was not done, because of this.
    Refused(String),
}
