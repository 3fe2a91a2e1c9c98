//! The way back: an attempt is given up, and this generation serves on.

use std::time::Instant;

use super::plan::KILL;
use super::state::{Awaited, State, Step, Then};
use super::{Effect, Failure, Rollout};
use crate::model::event::Outcome;
use crate::model::identity::Generation;

/// Whether users can have reached green.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// No program was attached.
    Untouched,
    /// No user has reached green.
    Hidden,
    /// Some users may be on green.
    Met,
}

fn reach(step: Step) -> Reach {
    match step {
        Step::Preflight => Reach::Untouched,
        Step::Gate | Step::Spawn | Step::Ready | Step::Verify | Step::Probe => Reach::Hidden,
        Step::Canary { .. } | Step::CutOver | Step::Soak => Reach::Met,
    }
}

impl Rollout {
    /// There is no process of green, and no result of a spawn to wait for: back to the step before.
    pub(super) fn nothing_spawned(&mut self) {
        if let State::Rolling { step, attempt } = &mut self.state {
            attempt.pid = None;
            if *step == Step::Spawn {
                *step = Step::Gate;
            }
        }
    }

    /// Gives the attempt up: steers all new connections back, and kills green if it has a process. A green that users
    /// may have reached is not killed: it finishes their connections.
    ///
    /// If users may have reached green, the rollout is over only when the kernel has been told: who hears of the
    /// outcome, and connects then, reaches this generation.
    pub(super) fn roll_back(&mut self, reason: Failure, then: Then, now: Instant) -> Vec<Effect> {
        let State::Rolling { attempt, step } = &mut self.state else { return vec![] };
        let (green, step) = (attempt.green, *step);
        attempt.deadline = now + KILL;
        let alive = attempt.pid.is_some();
        let awaited = match reach(step) {
            Reach::Untouched | Reach::Hidden => Awaited::Exit,
            Reach::Met => Awaited::SteeredBack,
        };
        self.state = State::RollingBack { attempt: attempt.clone(), reason, then, awaited };
        let mut effects = match reach(step) {
            Reach::Untouched => vec![],
            Reach::Hidden | Reach::Met => vec![Effect::SteerBack { green }],
        };
        match (alive, reach(step)) {
            (true, Reach::Met) => effects.push(Effect::Release { green }),
            (false, Reach::Met) => {}
            (true, Reach::Untouched | Reach::Hidden) => effects.push(Effect::Kill { green }),
            // Green is being spawned: the result of the spawn is waited for.
            (false, _) if step == Step::Spawn => {}
            (false, _) => effects.extend(self.rolled_back(now)),
        }
        effects
    }

    /// The kernel sends all new connections to this generation.
    pub(super) fn steered_back(&mut self, green: Generation, now: Instant) -> Vec<Effect> {
        match &self.state {
            State::RollingBack { attempt, awaited: Awaited::SteeredBack, .. } if attempt.green == green => {
                self.rolled_back(now)
            }
            State::RollingBack { .. }
            | State::Standby { .. }
            | State::Serving
            | State::Rolling { .. }
            | State::Retiring { .. }
            | State::Draining { .. }
            | State::Gone => vec![],
        }
    }

    pub(super) fn rolled_back(&mut self, now: Instant) -> Vec<Effect> {
        let State::RollingBack { attempt, reason, then, .. } = &self.state else { return vec![] };
        if self.is_launch() {
            let mut effects = vec![Effect::LaunchFailed { reason: reason.clone() }];
            effects.extend(self.finish());
            return effects;
        }
        let outcome = Outcome::RolledBack {
            generation: attempt.green,
            reason: reason.to_string(),
            took: now.duration_since(attempt.began),
        };
        let then = *then;
        self.state = State::Serving;
        let mut effects = vec![Effect::Report { outcome, serves_on: then == Then::Serve }];
        match then {
            Then::Serve => {}
            Then::Stop => effects.extend(self.stop_accepting(now)),
            Then::Finish => effects.extend(self.finish()),
        }
        effects
    }
}
