//! The settings of a rollout, as the user wants it.

use std::time::Duration;

use crate::model::share::Share;

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
