//! The end of a generation: it stops accepting, drains, and is gone.

use std::time::Instant;

use super::state::{State, Then};
use super::{Effect, HAMMER, Rollout, STEP};
use crate::model::event::Outcome;

impl Rollout {
    pub(super) fn stop_accepting(&mut self, now: Instant) -> Vec<Effect> {
        self.state = State::Retiring { successor: None, deadline: now + STEP, forced: false, hammer: false };
        vec![Effect::StopAccepting]
    }

    pub(super) fn listeners_closed(&mut self, now: Instant) -> Vec<Effect> {
        let State::Retiring { successor, hammer, .. } = self.state else { return vec![] };
        let wait = if hammer { HAMMER } else { self.times.drain };
        self.state = State::Draining { successor, deadline: now + wait, hammered: hammer };
        match hammer {
            true => vec![Effect::AwaitConnections, Effect::Hammer],
            false => vec![Effect::AwaitConnections],
        }
    }

    pub(super) fn connections_gone(&mut self) -> Vec<Effect> {
        match self.state {
            State::Draining { .. } => self.finish(),
            State::Standby { .. }
            | State::Serving
            | State::Rolling { .. }
            | State::RollingBack { .. }
            | State::Retiring { .. }
            | State::Gone => vec![],
        }
    }

    pub(super) fn stop_requested(&mut self, now: Instant) -> Vec<Effect> {
        self.stops = self.stops.saturating_add(1);
        if self.stops > 1 {
            return self.stop_at_once(now);
        }
        match &mut self.state {
            State::Standby { .. } | State::Serving => self.stop_accepting(now),
            State::Rolling { .. } => self.roll_back("was given up: a stop was asked for".into(), Then::Stop, now),
            State::RollingBack { then, .. } => {
                *then = Then::Stop;
                vec![]
            }
            State::Retiring { .. } | State::Draining { .. } | State::Gone => vec![],
        }
    }

    pub(super) fn stop_at_once(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = match &self.state {
            State::Rolling { attempt, .. } | State::RollingBack { attempt, .. } => {
                let outcome = Outcome::RolledBack {
                    generation: attempt.green,
                    reason: "was given up: a stop at once was asked for".into(),
                    took: now.duration_since(attempt.began),
                };
                vec![Effect::Kill { green: attempt.green }, Effect::Report(outcome)]
            }
            State::Gone => return vec![],
            State::Standby { .. } | State::Serving | State::Retiring { .. } | State::Draining { .. } => vec![],
        };
        effects.push(Effect::Hammer);
        effects.extend(self.finish());
        effects
    }

    pub(super) fn hammer_requested(&mut self, now: Instant) -> Vec<Effect> {
        match &mut self.state {
            State::Retiring { hammer, .. } => {
                *hammer = true;
                vec![]
            }
            State::Draining { hammered: true, .. } | State::Gone => vec![],
            State::Draining { hammered, deadline, .. } => {
                *hammered = true;
                *deadline = now + HAMMER;
                vec![Effect::Hammer]
            }
            State::Standby { .. } | State::Serving | State::Rolling { .. } | State::RollingBack { .. } => {
                vec![Effect::HammerPredecessors]
            }
        }
    }

    pub(super) fn finish(&mut self) -> Vec<Effect> {
        self.state = State::Gone;
        vec![Effect::Finish]
    }
}
