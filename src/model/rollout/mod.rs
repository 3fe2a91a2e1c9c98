//! The state machine of one generation: events come in, effects go out, and the result of an effect is an event again.
//!
//! The machine has no clock and does no I/O. Its host performs the effects; [`Rollout::deadline`] tells when to call
//! [`Rollout::handle_timeout`]. Each result carries the generation of its attempt, so that a result of an earlier
//! attempt is recognised as too late.

use std::time::Instant;

mod drain;
mod effects;
mod failure;
mod forward;
mod plan;
mod requests;
mod rollback;
mod state;
mod status;

pub(crate) use effects::{DrainScope, Effect, Revocability, RolloutEvent, UserRequest};
pub(crate) use failure::Failure;
pub(crate) use plan::{CanaryStep, Plan};
use plan::{FORCE_CLOSE_MAX, STEP};
use state::{Awaited, State, Step, Then};

use super::identity::{Generation, Pid};

/// The rollout machine of one generation: see the documentation of the module.
#[derive(Debug, Clone)]
pub(crate) struct Rollout {
    me: Generation,
    pid: Pid,
    last: Generation,
    plan: Plan,
    state: State,
    stops: u8,
}

impl Rollout {
    /// A generation that listens and has no generation before it.
    pub(crate) fn serving(me: Generation, pid: Pid, plan: Plan) -> Rollout {
        Rollout { me, pid, last: me, plan, state: State::Serving, stops: 0 }
    }

    /// A generation that listens while another one is live.
    pub(crate) fn standby(me: Generation, pid: Pid, plan: Plan) -> Rollout {
        Rollout { me, pid, last: me, plan, state: State::Standby { reload: false }, stops: 0 }
    }

    /// A launch: the rollout of the first generation, with no generation before it. `pid` is the process that launches.
    pub(crate) fn launching(pid: Pid, plan: Plan) -> Rollout {
        Rollout::serving(Generation::NONE, pid, plan)
    }

    /// Whether this is a launch.
    pub(crate) fn is_launch(&self) -> bool {
        self.me == Generation::NONE
    }

    /// When [`Rollout::handle_timeout`] has to be called, if no event comes before.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Rolling { attempt, .. } | State::RollingBack { attempt, .. } => Some(attempt.deadline),
            State::Retiring { deadline, .. } | State::Draining { deadline, .. } => Some(*deadline),
            State::Standby { .. } | State::Serving | State::Gone => None,
        }
    }

    /// Handles one event.
    #[must_use = "the effects have to be performed"]
    pub(crate) fn handle(&mut self, event: RolloutEvent, now: Instant) -> Vec<Effect> {
        match event {
            RolloutEvent::Live => self.live(now),
            RolloutEvent::TakenBack { by } => self.taken_back(by, now),
            RolloutEvent::ReloadRequested => self.reload_requested(now),
            RolloutEvent::PromoteRequested => self.promote_requested(now),
            RolloutEvent::RollbackRequested => self.rollback_requested(now),
            RolloutEvent::PreflightDone { green, result } => match self.attempt_at(green, Step::Preflight) {
                Some(_) => self.advance(Step::Gate, Effect::Gate { green }, result, now),
                None => vec![],
            },
            RolloutEvent::Gated { green, result } => match self.attempt_at(green, Step::Gate) {
                Some(_) => self.advance(Step::Spawn, Effect::Spawn { green }, result, now),
                None => vec![],
            },
            RolloutEvent::Spawned { green, result } => self.spawned(green, result, now),
            RolloutEvent::GreenReady { green } => match self.attempt_at(green, Step::Ready).is_some() {
                true if self.is_launch() => self.ready_to_launch(now),
                true => self.advance(Step::Verify, Effect::Verify { green }, Ok(()), now),
                false => vec![],
            },
            RolloutEvent::GreenExtends { green, by } => self.extended(green, by, now),
            RolloutEvent::GreenFailed { green, reason } => self.failed(green, reason, now),
            RolloutEvent::GreenExited { green, how } => self.exited(green, how, now),
            RolloutEvent::Verified { green, result } => self.verified(green, result, now),
            RolloutEvent::Probed { green, result } => self.probed(green, result, now),
            RolloutEvent::Shared { green, result } => self.shared(green, result, now),
            RolloutEvent::CutOver { green, result } => self.cut_over(green, result, now),
            RolloutEvent::SteeredBack { green } => self.steered_back(green, now),
            RolloutEvent::ListenersClosed => self.listeners_closed(now),
            RolloutEvent::ConnectionsGone => self.connections_gone(),
            RolloutEvent::Died => self.died(now),
            RolloutEvent::StopRequested => self.stop_requested(now),
            RolloutEvent::ForceCloseRequested => self.force_close_requested(now),
        }
    }

    /// Handles the passing of [`Rollout::deadline`]; does nothing before that time.
    #[must_use = "the effects have to be performed"]
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<Effect> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return vec![];
        }
        match &mut self.state {
            State::Rolling { step, .. } => {
                let step = *step;
                self.rolling_timed_out(step, now)
            }
            State::RollingBack { reason, awaited, .. } => {
                match awaited {
                    Awaited::Exit => *reason = Failure::NotGone(Box::new(reason.clone())),
                    // The operations on the groups are slow. Each of them that fails is logged.
                    Awaited::SteeredBack => {}
                }
                self.rolled_back(now)
            }
            State::Retiring { forced, deadline, .. } if !*forced => {
                *forced = true;
                *deadline = now + STEP;
                vec![Effect::CloseNow]
            }
            State::Retiring { .. } => self.listeners_closed(now),
            State::Draining { successor, force_closed, deadline } if !*force_closed => {
                *force_closed = true;
                *deadline = now + FORCE_CLOSE_MAX;
                Rollout::force_closing(*successor)
            }
            State::Draining { .. } => self.finish(),
            State::Standby { .. } | State::Serving | State::Gone => vec![],
        }
    }

    fn rolling_timed_out(&mut self, step: Step, now: Instant) -> Vec<Effect> {
        let reason = match step {
            Step::Preflight => Failure::NoPreflight(self.plan.ready),
            Step::Gate => Failure::NoGate,
            Step::Spawn => Failure::NotStarted,
            Step::Ready => Failure::NotReady(self.plan.ready),
            Step::Verify => Failure::NotVerified,
            Step::Probe => Failure::NotProbed,
            Step::Canary { shared: false, .. } | Step::CutOver => Failure::NotSteeredTo,
            Step::Canary { index, shared: true } => return self.begin_canary(index + 1, now),
            Step::Soak => return self.retire(now),
        };
        self.roll_back(reason, Then::Serve, now)
    }
}

#[cfg(test)]
mod tests;
