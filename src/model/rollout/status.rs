//! The state of the machine, as users see it.

use std::time::Instant;

use super::Rollout;
use super::state::{State, Step};
use crate::model::event::Phase;
use crate::model::identity::Generation;
use crate::model::share::Share;
use crate::model::status::RolloutStatus;

impl Rollout {
    /// The phase of this generation.
    pub(crate) fn phase(&self) -> Phase {
        match &self.state {
            State::Standby { .. } => Phase::Standby,
            State::Serving => Phase::Serving,
            State::Rolling { step: Step::Preflight | Step::Gate, .. } => Phase::Preflight,
            State::Rolling { step: Step::Spawn | Step::Ready, .. } => Phase::Starting,
            State::Rolling { step: Step::Verify, .. } => Phase::Verifying,
            State::Rolling { step: Step::Probe, .. } => Phase::Probing,
            State::Rolling { step: Step::Canary { .. }, .. } => Phase::Canary,
            State::Rolling { step: Step::CutOver, .. } => Phase::CuttingOver,
            State::Rolling { step: Step::Soak, .. } => Phase::Soaking,
            State::RollingBack { .. } => Phase::RollingBack,
            State::Retiring { .. } => Phase::Retiring,
            State::Draining { .. } => Phase::Draining,
            State::Gone => Phase::Gone,
        }
    }

    /// The rollout that is under way, if one is.
    pub(crate) fn status(&self, now: Instant) -> Option<RolloutStatus> {
        let (attempt, share) = match &self.state {
            State::Rolling { attempt, step } => (attempt, self.share(*step)),
            State::RollingBack { attempt, .. } => (attempt, Share::NONE),
            State::Standby { .. } | State::Serving | State::Retiring { .. } | State::Draining { .. } | State::Gone => {
                return None;
            }
        };
        Some(RolloutStatus {
            generation: attempt.green,
            phase: self.phase(),
            share,
            elapsed: now.saturating_duration_since(attempt.began),
            left: Some(attempt.deadline.saturating_duration_since(now)),
        })
    }

    /// The part of new connections that this generation gets.
    pub(crate) fn own_share(&self) -> Share {
        match &self.state {
            State::Serving | State::RollingBack { .. } => Share::ALL,
            State::Rolling { step, .. } => self.share(*step).rest(),
            State::Standby { .. } | State::Retiring { .. } | State::Draining { .. } | State::Gone => Share::NONE,
        }
    }

    /// Whether a process of `green` is still wanted, or still waited for: a spawn may end long after its rollout.
    pub(crate) fn awaits(&self, green: Generation) -> bool {
        match &self.state {
            State::Rolling { attempt, .. } | State::RollingBack { attempt, .. } => attempt.green == green,
            State::Standby { .. } | State::Serving | State::Retiring { .. } | State::Draining { .. } | State::Gone => {
                false
            }
        }
    }

    /// The generation that is live instead of this one.
    pub(crate) fn successor(&self) -> Option<Generation> {
        match self.state {
            State::Retiring { successor, .. } | State::Draining { successor, .. } => successor,
            State::Standby { .. }
            | State::Serving
            | State::Rolling { .. }
            | State::RollingBack { .. }
            | State::Gone => None,
        }
    }

    /// Whether this generation takes no new connections any more, and never will.
    pub(crate) fn is_leaving(&self) -> bool {
        matches!(self.state, State::Retiring { .. } | State::Draining { .. } | State::Gone)
    }

    /// The share of green, as the kernel was told last.
    fn share(&self, step: Step) -> Share {
        let of = |index: usize| self.plan.canary.get(index).map_or(Share::NONE, |canary| canary.share);
        match step {
            Step::Preflight | Step::Gate | Step::Spawn | Step::Ready | Step::Verify | Step::Probe => Share::NONE,
            Step::Canary { index, shared: true } => of(index),
            Step::Canary { index, shared: false } => index.checked_sub(1).map_or(Share::NONE, of),
            // A promotion may have skipped steps; the wrong share is then shown for no longer than a system call.
            Step::CutOver => self.plan.canary.last().map_or(Share::NONE, |canary| canary.share),
            Step::Soak => Share::ALL,
        }
    }
}
