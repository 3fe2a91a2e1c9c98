//! The settings of a rollout, as the user wants it, and the time limits that the user does not choose.

use std::time::Duration;

use crate::model::share::Share;

/// Time limit of one step that should take milliseconds.
pub(super) const STEP: Duration = Duration::from_secs(10);
/// Time limit for a killed process to be gone.
pub(super) const KILL: Duration = Duration::from_secs(5);
/// Time limit for connections to close after a forced close.
pub(super) const FORCE_CLOSE_MAX: Duration = Duration::from_secs(1);
/// Pause between two probes of a green that has users.
pub(super) const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// One step of a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CanaryStep {
    /// The part of new connections that green gets.
    pub(crate) share: Share,
    pub(crate) time: Duration,
}

/// What a rollout does, and how long its parts may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Time limit for green to become ready.
    pub(crate) ready: Duration,
    pub(crate) linger: Duration,
    pub(crate) drain: Duration,
    /// Time limit of one probe; `None` for no probe.
    pub(crate) probe: Option<Duration>,
    pub(crate) canary: Vec<CanaryStep>,
    /// Zero: blue retires as soon as it has cut over.
    pub(crate) soak: Duration,
}

impl Plan {
    /// Whether the plan has a step that cannot be done without steering.
    pub(crate) fn needs_steering(&self) -> bool {
        self.probe.is_some() || !self.canary.is_empty() || !self.soak.is_zero()
    }
}
