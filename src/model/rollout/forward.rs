//! The way forward: from the request to the cut-over, step by step.

use std::time::{Duration, Instant};

use super::state::{Attempt, State, Step, Then};
use super::{Effect, KILL, Rollout, STEP};
use crate::model::event::Outcome;
use crate::model::identity::{Generation, Pid};

impl Rollout {
    pub(super) fn attempt_at(&mut self, green: Generation, at: Step) -> Option<&mut Attempt> {
        match &mut self.state {
            State::Rolling { attempt, step } if attempt.green == green && *step == at => Some(attempt),
            State::Standby { .. }
            | State::Serving
            | State::Rolling { .. }
            | State::RollingBack { .. }
            | State::Retiring { .. }
            | State::Draining { .. }
            | State::Gone => None,
        }
    }

    /// Goes on to the next step of the attempt if the last one went well, and rolls back if not.
    pub(super) fn advance(
        &mut self,
        to: Step,
        effect: Effect,
        result: Result<(), String>,
        now: Instant,
    ) -> Vec<Effect> {
        match result {
            Ok(()) => {
                if let State::Rolling { attempt, step } = &mut self.state {
                    // The gate waits until the generation before has closed its listeners, which may linger.
                    attempt.deadline = now + if to == Step::Gate { self.times.linger + STEP } else { STEP };
                    *step = to;
                }
                vec![effect]
            }
            Err(reason) => self.roll_back(reason, Then::Serve, now),
        }
    }

    pub(super) fn live(&mut self, now: Instant) -> Vec<Effect> {
        match self.state {
            State::Standby { reload } => {
                self.state = State::Serving;
                let mut effects = vec![Effect::BecomeLive];
                if reload {
                    effects.extend(self.reload_requested(now));
                }
                effects
            }
            // It was told to stop before it became live.
            State::Retiring { .. } | State::Draining { .. } | State::Gone => vec![],
            State::Serving | State::Rolling { .. } | State::RollingBack { .. } => vec![],
        }
    }

    pub(super) fn reload_requested(&mut self, now: Instant) -> Vec<Effect> {
        let me = self.me;
        let reason = match &mut self.state {
            State::Serving => {
                let green = self.last.next();
                self.last = green;
                let attempt = Attempt { green, pid: None, began: now, deadline: now + self.times.ready };
                self.state = State::Rolling { attempt, step: Step::Preflight };
                return vec![Effect::Preflight { green }];
            }
            State::Standby { reload } => {
                *reload = true;
                return vec![];
            }
            State::Rolling { attempt, .. } | State::RollingBack { attempt, .. } => {
                format!("the rollout of generation {} is under way in generation {me}", attempt.green)
            }
            State::Retiring { successor: Some(green), .. } | State::Draining { successor: Some(green), .. } => {
                format!("generation {me} retires, and generation {green} is live: ask that one")
            }
            State::Retiring { successor: None, .. } | State::Draining { successor: None, .. } | State::Gone => {
                format!("generation {me} is stopping")
            }
        };
        vec![Effect::Refuse { reason }]
    }

    pub(super) fn spawned(&mut self, green: Generation, result: Result<Pid, String>, now: Instant) -> Vec<Effect> {
        let ready = self.times.ready;
        if let Some(attempt) = self.attempt_at(green, Step::Spawn) {
            return match result {
                Ok(pid) => {
                    attempt.pid = Some(pid);
                    attempt.deadline = now + ready;
                    if let State::Rolling { step, .. } = &mut self.state {
                        *step = Step::Ready;
                    }
                    vec![]
                }
                Err(reason) => {
                    self.nothing_spawned();
                    self.roll_back(reason, Then::Serve, now)
                }
            };
        }
        // It was given up while it was being spawned.
        match (&mut self.state, result) {
            (State::RollingBack { attempt, .. }, Ok(pid)) if attempt.green == green => {
                attempt.pid = Some(pid);
                attempt.deadline = now + KILL;
                vec![Effect::Kill { green }]
            }
            (State::RollingBack { attempt, .. }, Err(_)) if attempt.green == green => self.rolled_back(now),
            (_, Ok(_)) => vec![Effect::Kill { green }],
            (_, Err(_)) => vec![],
        }
    }

    pub(super) fn extended(&mut self, green: Generation, by: Duration, now: Instant) -> Vec<Effect> {
        if let Some(attempt) = self.attempt_at(green, Step::Ready) {
            attempt.deadline = attempt.deadline.max(now + by);
        }
        vec![]
    }

    pub(super) fn failed(&mut self, green: Generation, reason: String, now: Instant) -> Vec<Effect> {
        match self.attempt_at(green, Step::Ready) {
            Some(_) => self.roll_back(reason, Then::Serve, now),
            None => vec![],
        }
    }

    pub(super) fn exited(&mut self, green: Generation, how: String, now: Instant) -> Vec<Effect> {
        match &mut self.state {
            State::Rolling { attempt, step } if attempt.green == green => {
                let when = match step {
                    Step::Preflight | Step::Gate | Step::Spawn | Step::Ready => "before it was ready",
                    Step::Verify | Step::CutOver => "as soon as it was ready",
                };
                self.nothing_spawned();
                self.roll_back(format!("{how} {when}"), Then::Serve, now)
            }
            State::RollingBack { attempt, .. } if attempt.green == green => self.rolled_back(now),
            State::Retiring { successor, .. } | State::Draining { successor, .. } if *successor == Some(green) => {
                vec![Effect::GreenLost { green, how }]
            }
            State::Standby { .. }
            | State::Serving
            | State::Rolling { .. }
            | State::RollingBack { .. }
            | State::Retiring { .. }
            | State::Draining { .. }
            | State::Gone => vec![],
        }
    }

    pub(super) fn cut_over(&mut self, green: Generation, result: Result<(), String>, now: Instant) -> Vec<Effect> {
        let Some(attempt) = self.attempt_at(green, Step::CutOver) else { return vec![] };
        let (began, pid) = (attempt.began, attempt.pid);
        match (result, pid) {
            (Ok(()), Some(pid)) => {
                let deadline = now + self.times.linger + STEP;
                self.state = State::Retiring { successor: Some(green), deadline, forced: false, hammer: false };
                let outcome = Outcome::Done { generation: green, pid, took: now.duration_since(began) };
                vec![Effect::HandOver { green }, Effect::Report(outcome), Effect::Retire]
            }
            (Ok(()), None) => self.roll_back("is gone".into(), Then::Serve, now),
            (Err(reason), _) => self.roll_back(reason, Then::Serve, now),
        }
    }
}
