//! The end of a generation: it stops accepting, drains, and is gone.

use std::time::Instant;

use super::plan::{FORCE_CLOSE_MAX, STEP};
use super::state::{State, Then};
use super::{DrainScope, Effect, Failure, Rollout};
use crate::model::event::Outcome;
use crate::model::identity::Generation;

impl Rollout {
    pub(super) fn stop_accepting(&mut self, now: Instant) -> Vec<Effect> {
        self.state = State::Retiring { successor: None, deadline: now + STEP, forced: false, force_close: false };
        vec![Effect::StopAccepting]
    }

    pub(super) fn listeners_closed(&mut self, now: Instant) -> Vec<Effect> {
        let State::Retiring { successor, force_close, .. } = self.state else { return vec![] };
        let wait = if force_close { FORCE_CLOSE_MAX } else { self.plan.drain };
        self.state = State::Draining { successor, deadline: now + wait, force_closed: force_close };
        let whose = if successor.is_some() { DrainScope::Own } else { DrainScope::All };
        let mut effects = vec![Effect::AwaitConnections(whose)];
        if force_close {
            effects.extend(Rollout::force_closing(successor));
        }
        effects
    }

    /// The generation before has all new connections again: this one, which was never live, finishes its own
    /// connections.
    pub(super) fn taken_back(&mut self, by: Generation, now: Instant) -> Vec<Effect> {
        match self.state {
            State::Standby { .. } => {
                let deadline = now + self.plan.linger + STEP;
                self.state = State::Retiring { successor: Some(by), deadline, forced: false, force_close: false };
                vec![Effect::Retire]
            }
            State::Serving
            | State::Rolling { .. }
            | State::RollingBack { .. }
            | State::Retiring { .. }
            | State::Draining { .. }
            | State::Gone => vec![],
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

    /// This generation has ended. A green that was spawned is the only generation left: it is live, ready or not.
    pub(super) fn died(&mut self, now: Instant) -> Vec<Effect> {
        match &mut self.state {
            State::Rolling { attempt, .. } if attempt.pid.is_some() => self.retire(now),
            State::Rolling { .. } => {
                let reason = Failure::BlueEnded(self.me);
                self.roll_back(reason, Then::Finish, now)
            }
            State::RollingBack { then, .. } => {
                *then = Then::Finish;
                vec![]
            }
            State::Standby { .. } | State::Serving => self.finish(),
            State::Retiring { .. } | State::Draining { .. } | State::Gone => vec![],
        }
    }

    pub(super) fn stop_requested(&mut self, now: Instant) -> Vec<Effect> {
        self.stops = self.stops.saturating_add(1);
        if self.stops > 1 {
            return self.stop_at_once(now);
        }
        let is_launch = self.is_launch();
        match &mut self.state {
            State::Standby { .. } | State::Serving => self.stop_accepting(now),
            // The first generation may be at work already, and is told to stop as if it were live.
            State::Rolling { attempt, .. } if is_launch && attempt.pid.is_some() => self.stop_accepting(now),
            State::Rolling { .. } => self.roll_back(Failure::Stop, Then::Stop, now),
            State::RollingBack { then, .. } => {
                *then = Then::Stop;
                vec![]
            }
            // Idle connections are waited for no longer; without a successor they are not waited for in the first
            // place.
            State::Retiring { .. } | State::Draining { .. } => vec![Effect::CloseIdle],
            State::Gone => vec![],
        }
    }

    pub(super) fn stop_at_once(&mut self, now: Instant) -> Vec<Effect> {
        let is_launch = self.is_launch();
        let mut effects = match &mut self.state {
            // Green is being spawned: unless the result is waited for, its process would be left behind.
            State::RollingBack { attempt, then, .. } if attempt.pid.is_none() => {
                *then = Then::Finish;
                return vec![];
            }
            State::Rolling { attempt, .. } | State::RollingBack { attempt, .. } if is_launch => {
                vec![Effect::Kill { green: attempt.green }, Effect::LaunchFailed { reason: Failure::StopAtOnce }]
            }
            State::Rolling { attempt, .. } | State::RollingBack { attempt, .. } => {
                let (generation, took) = (attempt.green, now.duration_since(attempt.began));
                let outcome = Outcome::RolledBack { generation, reason: Failure::StopAtOnce.to_string(), took };
                vec![Effect::Kill { green: attempt.green }, Effect::Report { outcome, serves_on: false }]
            }
            State::Gone => return vec![],
            State::Standby { .. } | State::Serving | State::Retiring { .. } | State::Draining { .. } => vec![],
        };
        effects.push(Effect::ForceClose);
        effects.extend(self.finish());
        effects
    }

    pub(super) fn force_close_requested(&mut self, now: Instant) -> Vec<Effect> {
        match &mut self.state {
            State::Retiring { force_close, .. } => {
                *force_close = true;
                vec![]
            }
            State::Draining { force_closed: true, .. } | State::Gone => vec![],
            State::Draining { successor, force_closed, deadline } => {
                *force_closed = true;
                *deadline = now + FORCE_CLOSE_MAX;
                Rollout::force_closing(*successor)
            }
            State::Standby { .. } | State::Serving | State::Rolling { .. } | State::RollingBack { .. } => {
                vec![Effect::ForceClosePredecessors]
            }
        }
    }

    pub(super) fn finish(&mut self) -> Vec<Effect> {
        self.state = State::Gone;
        vec![Effect::Finish]
    }

    /// Ends a drain. Without a successor, the drains of earlier generations end as well.
    pub(super) fn force_closing(successor: Option<Generation>) -> Vec<Effect> {
        match successor {
            Some(_) => vec![Effect::ForceClose],
            None => vec![Effect::ForceClose, Effect::ForceClosePredecessors],
        }
    }
}
