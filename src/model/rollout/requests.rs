//! The requests of users, and the reasons for which a request at the wrong time is refused.

use std::time::Instant;

use super::plan::STEP;
use super::state::{Attempt, State, Step, Then};
use super::{Effect, Failure, Rollout, UserRequest};
use crate::model::identity::Generation;

impl Rollout {
    pub(super) fn reload_requested(&mut self, now: Instant) -> Vec<Effect> {
        let is_launch = self.is_launch();
        match &mut self.state {
            // Nothing is there yet that could be checked, or steered to.
            State::Serving if is_launch => {
                let (green, deadline) = (Generation::FIRST, now + STEP);
                let attempt = Attempt { green, pid: None, began: now, deadline, probing: false };
                self.state = State::Rolling { attempt, step: Step::Spawn };
                vec![Effect::Spawn { green }]
            }
            State::Serving => {
                let green = self.last.next();
                self.last = green;
                let deadline = now + self.plan.ready;
                let attempt = Attempt { green, pid: None, began: now, deadline, probing: false };
                self.state = State::Rolling { attempt, step: Step::Preflight };
                vec![Effect::Preflight { green }]
            }
            State::Standby { reload } => {
                *reload = true;
                vec![]
            }
            State::Rolling { .. }
            | State::RollingBack { .. }
            | State::Retiring { .. }
            | State::Draining { .. }
            | State::Gone => self.refuse(UserRequest::Reload),
        }
    }

    /// Skips the rest of a step: from a canary to the cut-over, from the soak to the point of no return.
    pub(super) fn promote_requested(&mut self, now: Instant) -> Vec<Effect> {
        match &self.state {
            State::Rolling { step: Step::Canary { .. }, .. } => self.begin_cut_over(now),
            State::Rolling { step: Step::Soak, .. } => self.retire(now),
            // The cut-over is under way already.
            State::Rolling { step: Step::CutOver, .. } => vec![],
            State::Rolling { .. }
            | State::Standby { .. }
            | State::Serving
            | State::RollingBack { .. }
            | State::Retiring { .. }
            | State::Draining { .. }
            | State::Gone => self.refuse(UserRequest::Promotion),
        }
    }

    pub(super) fn rollback_requested(&mut self, now: Instant) -> Vec<Effect> {
        match &self.state {
            State::Rolling { .. } => self.roll_back(Failure::OnRequest, Then::Serve, now),
            State::Standby { .. }
            | State::Serving
            | State::RollingBack { .. }
            | State::Retiring { .. }
            | State::Draining { .. }
            | State::Gone => self.refuse(UserRequest::Rollback),
        }
    }

    fn refuse(&self, asked: UserRequest) -> Vec<Effect> {
        let (me, pid) = (self.me, self.pid);
        let reason = match (&self.state, asked) {
            _ if self.is_launch() => "the first generation is not ready".to_owned(),
            (State::Rolling { attempt, .. } | State::RollingBack { attempt, .. }, UserRequest::Reload) => {
                format!("the rollout of generation {} is under way in generation {me} (pid {pid})", attempt.green)
            }
            (State::Rolling { attempt, .. }, UserRequest::Promotion | UserRequest::Rollback) => {
                let (green, phase) = (attempt.green, self.phase());
                format!("the rollout of generation {green} is {phase}: only a canary or a soak can be promoted")
            }
            (State::RollingBack { attempt, .. }, UserRequest::Promotion | UserRequest::Rollback) => {
                format!("generation {} is being rolled back already", attempt.green)
            }
            (State::Serving, UserRequest::Rollback) if me > Generation::FIRST => {
                format!(
                    "no rollout is under way: generation {me} (pid {pid}) serves; earlier generations have retired, \
                     and cannot come back"
                )
            }
            (State::Standby { .. } | State::Serving, _) => {
                format!("no rollout is under way: generation {me} (pid {pid}) serves")
            }
            (State::Retiring { successor: Some(green), .. } | State::Draining { successor: Some(green), .. }, _) => {
                format!("generation {me} (pid {pid}) retires, and generation {green} is live: ask that one")
            }
            (State::Retiring { successor: None, .. } | State::Draining { successor: None, .. } | State::Gone, _) => {
                format!("generation {me} (pid {pid}) is stopping")
            }
        };
        vec![Effect::Refuse { asked, reason }]
    }
}
