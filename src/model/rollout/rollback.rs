//! The way back: an attempt is given up, and this generation serves on.

use std::time::Instant;

use super::state::{State, Step, Then};
use super::{Effect, KILL, Rollout};
use crate::model::event::Outcome;

/// What users have of green.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// No program was attached.
    Untouched,
    /// None of them has met it.
    Hidden,
    /// Some may be on it.
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
    /// There is no process, and no word of one to wait for: back to the step before.
    pub(super) fn nothing_spawned(&mut self) {
        if let State::Rolling { step, attempt } = &mut self.state {
            attempt.pid = None;
            if *step == Step::Spawn {
                *step = Step::Gate;
            }
        }
    }

    /// Gives the attempt up: everything is steered back, and green, if there is one, killed; but one that users have met
    /// finishes what it has of them.
    pub(super) fn roll_back(&mut self, reason: String, then: Then, now: Instant) -> Vec<Effect> {
        let State::Rolling { attempt, step } = &mut self.state else { return vec![] };
        let (green, step) = (attempt.green, *step);
        attempt.deadline = now + KILL;
        let alive = attempt.pid.is_some();
        self.state = State::RollingBack { attempt: attempt.clone(), reason, then };
        let mut effects = match reach(step) {
            Reach::Untouched => vec![],
            Reach::Hidden | Reach::Met => vec![Effect::SteerBack],
        };
        match (alive, reach(step)) {
            (true, Reach::Met) => {
                effects.push(Effect::Release { green });
                effects.extend(self.rolled_back(now));
            }
            (true, Reach::Untouched | Reach::Hidden) => effects.push(Effect::Kill { green }),
            // It is being spawned: what comes of that is waited for.
            (false, _) if step == Step::Spawn => {}
            (false, _) => effects.extend(self.rolled_back(now)),
        }
        effects
    }

    pub(super) fn rolled_back(&mut self, now: Instant) -> Vec<Effect> {
        let State::RollingBack { attempt, reason, then } = &self.state else { return vec![] };
        let outcome = Outcome::RolledBack {
            generation: attempt.green,
            reason: reason.clone(),
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
