//! The way forward: from the preflight to the point of no return, step by step.

use std::time::{Duration, Instant};

use super::plan::{CanaryStep, KILL, PROBE_PAUSE, STEP};
use super::state::{Attempt, Awaited, State, Step, Then};
use super::{Effect, Failure, Revocability, Rollout};
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

    /// Enters the next step of the attempt if the last step succeeded, and rolls back if not.
    pub(super) fn advance(
        &mut self,
        to: Step,
        effect: Effect,
        result: Result<(), Failure>,
        now: Instant,
    ) -> Vec<Effect> {
        match result {
            Ok(()) => {
                // The gate waits until earlier generations have closed their listeners, and these listeners may linger.
                self.enter(to, now + if to == Step::Gate { self.plan.linger + STEP } else { STEP });
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
            // This generation was told to stop, or was released, before it became live.
            State::Retiring { .. } | State::Draining { .. } | State::Gone => vec![],
            State::Serving | State::Rolling { .. } | State::RollingBack { .. } => vec![],
        }
    }

    pub(super) fn spawned(&mut self, green: Generation, result: Result<Pid, Failure>, now: Instant) -> Vec<Effect> {
        let ready = self.plan.ready;
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
        // The attempt was given up while green was being spawned.
        match (&mut self.state, result) {
            (State::RollingBack { attempt, then, .. }, Ok(pid)) if attempt.green == green => {
                attempt.pid = Some(pid);
                attempt.deadline = now + KILL;
                let mut effects = vec![Effect::Kill { green }];
                if *then == Then::Finish {
                    effects.extend(self.rolled_back(now));
                }
                effects
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

    pub(super) fn failed(&mut self, green: Generation, reason: Failure, now: Instant) -> Vec<Effect> {
        match self.attempt_at(green, Step::Ready) {
            Some(_) => self.roll_back(reason, Then::Serve, now),
            None => vec![],
        }
    }

    pub(super) fn exited(&mut self, green: Generation, how: String, now: Instant) -> Vec<Effect> {
        let is_launch = self.is_launch();
        match &mut self.state {
            State::Rolling { attempt, step } if attempt.green == green => {
                let when = match step {
                    // The probe is what makes the first generation ready.
                    Step::Probe if is_launch => "before it was ready",
                    Step::Preflight | Step::Gate | Step::Spawn | Step::Ready => "before it was ready",
                    Step::Verify => "as soon as it was ready",
                    Step::Probe => "while it was probed",
                    Step::Canary { .. } => "in the canary",
                    Step::CutOver => "in the cut-over",
                    Step::Soak => "in the soak",
                };
                self.nothing_spawned();
                self.roll_back(Failure::Exited { how, when }, Then::Serve, now)
            }
            State::RollingBack { attempt, awaited: Awaited::Exit, .. } if attempt.green == green => {
                self.rolled_back(now)
            }
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

    pub(super) fn verified(&mut self, green: Generation, result: Result<(), Failure>, now: Instant) -> Vec<Effect> {
        if self.attempt_at(green, Step::Verify).is_none() {
            return vec![];
        }
        match (result, self.plan.probe) {
            (Ok(()), Some(patience)) => self.begin_probe(patience, now),
            (Ok(()), None) => self.begin_canary(0, now),
            (Err(reason), _) => self.roll_back(reason, Then::Serve, now),
        }
    }

    fn begin_probe(&mut self, patience: Duration, now: Instant) -> Vec<Effect> {
        self.enter(Step::Probe, now + patience + STEP);
        self.probe_after(Duration::ZERO)
    }

    /// The first generation is ready. There is no generation before it, from which its listeners would have to be told
    /// apart.
    pub(super) fn ready_to_launch(&mut self, now: Instant) -> Vec<Effect> {
        match self.plan.probe {
            Some(patience) => self.begin_probe(patience, now),
            None => self.launched(now),
        }
    }

    /// A probe has ended. Probes are repeated for as long as users are on green and can be steered back.
    pub(super) fn probed(&mut self, green: Generation, result: Result<(), Failure>, now: Instant) -> Vec<Effect> {
        let State::Rolling { attempt, step } = &mut self.state else { return vec![] };
        if attempt.green != green {
            return vec![];
        }
        attempt.probing = false;
        match (result, *step) {
            (Err(reason), _) => self.roll_back(reason, Then::Serve, now),
            (Ok(()), Step::Probe) if self.is_launch() => self.launched(now),
            (Ok(()), Step::Probe) => self.begin_canary(0, now),
            (Ok(()), Step::Canary { .. } | Step::CutOver | Step::Soak) => self.probe_after(PROBE_PAUSE),
            (Ok(()), Step::Preflight | Step::Gate | Step::Spawn | Step::Ready | Step::Verify) => vec![],
        }
    }

    /// Begins this step of the canary; cuts over if the plan has no such step.
    pub(super) fn begin_canary(&mut self, index: usize, now: Instant) -> Vec<Effect> {
        let State::Rolling { attempt, .. } = &self.state else { return vec![] };
        let green = attempt.green;
        let Some(&CanaryStep { share, .. }) = self.plan.canary.get(index) else { return self.begin_cut_over(now) };
        self.enter(Step::Canary { index, shared: false }, now + STEP);
        vec![Effect::Share { green, share }]
    }

    /// The kernel has accepted or refused the share of a canary step.
    pub(super) fn shared(&mut self, green: Generation, result: Result<(), Failure>, now: Instant) -> Vec<Effect> {
        let State::Rolling { attempt, step: Step::Canary { index, shared: false } } = &self.state else {
            return vec![];
        };
        let (same, index) = (attempt.green == green, *index);
        match (same, result, self.plan.canary.get(index)) {
            (true, Ok(()), Some(&CanaryStep { share, time })) => {
                self.enter(Step::Canary { index, shared: true }, now + time);
                let mut effects = vec![Effect::Canary { green, share, time }];
                effects.extend(self.probe_after(PROBE_PAUSE));
                effects
            }
            (true, Err(reason), _) => self.roll_back(reason, Then::Serve, now),
            (true, Ok(()), None) | (false, _, _) => vec![],
        }
    }

    pub(super) fn begin_cut_over(&mut self, now: Instant) -> Vec<Effect> {
        let State::Rolling { attempt, .. } = &self.state else { return vec![] };
        let green = attempt.green;
        let turn = if self.plan.soak.is_zero() { Revocability::Final } else { Revocability::Revocable };
        self.enter(Step::CutOver, now + STEP);
        vec![Effect::CutOver { green, turn }]
    }

    pub(super) fn cut_over(&mut self, green: Generation, result: Result<(), Failure>, now: Instant) -> Vec<Effect> {
        if self.attempt_at(green, Step::CutOver).is_none() {
            return vec![];
        }
        let soak = self.plan.soak;
        match result {
            Ok(()) if soak.is_zero() => self.retire(now),
            Ok(()) => {
                self.enter(Step::Soak, now + soak);
                let mut effects = vec![Effect::Soak { time: soak }];
                effects.extend(self.probe_after(PROBE_PAUSE));
                effects
            }
            Err(reason) => self.roll_back(reason, Then::Serve, now),
        }
    }

    /// The point of no return.
    pub(super) fn retire(&mut self, now: Instant) -> Vec<Effect> {
        let State::Rolling { attempt, .. } = &self.state else { return vec![] };
        let (green, began) = (attempt.green, attempt.began);
        let Some(pid) = attempt.pid else { return self.roll_back(Failure::Gone, Then::Serve, now) };
        let deadline = now + self.plan.linger + STEP;
        self.state = State::Retiring { successor: Some(green), deadline, forced: false, force_close: false };
        let took = now.duration_since(began);
        let outcome = Outcome::Done { generation: green, pid, took };
        vec![Effect::HandOver { green, took }, Effect::Report { outcome, serves_on: false }, Effect::Retire]
    }

    /// The first generation has passed all steps of its launch.
    fn launched(&mut self, now: Instant) -> Vec<Effect> {
        let State::Rolling { attempt, .. } = &self.state else { return vec![] };
        let (green, took) = (attempt.green, now.duration_since(attempt.began));
        let mut effects = vec![Effect::HandOver { green, took }];
        effects.extend(self.finish());
        effects
    }

    fn enter(&mut self, to: Step, until: Instant) {
        if let State::Rolling { attempt, step } = &mut self.state {
            attempt.deadline = until;
            *step = to;
        }
    }

    /// Probes green after this pause, unless a probe is under way already, or the plan has none.
    fn probe_after(&mut self, after: Duration) -> Vec<Effect> {
        match &mut self.state {
            State::Rolling { attempt, .. } if self.plan.probe.is_some() && !attempt.probing => {
                attempt.probing = true;
                vec![Effect::Probe { green: attempt.green, after }]
            }
            State::Rolling { .. }
            | State::Standby { .. }
            | State::Serving
            | State::RollingBack { .. }
            | State::Retiring { .. }
            | State::Draining { .. }
            | State::Gone => vec![],
        }
    }
}
