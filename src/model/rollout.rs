//! The machine of one generation's life: events come in, effects go out, what effects bring back is an event.
//!
//! It has no clock and does no I/O. Its host performs the effects; [`Rollout::deadline`] tells when to call
//! [`Rollout::handle_timeout`]. Results carry the generation of the attempt that they belong to, so that one which comes
//! too late is known as such.

use std::time::{Duration, Instant};

use super::event::{Outcome, Phase};
use super::identity::{Generation, Pid};

/// How long one step that should take milliseconds may take.
const STEP: Duration = Duration::from_secs(10);
/// How long a killed process may take to be gone.
const KILL: Duration = Duration::from_secs(5);
/// How long connections that were told to close at once may take.
const HAMMER: Duration = Duration::from_secs(1);

/// The durations that a user sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) ready: Duration,
    pub(crate) linger: Duration,
    pub(crate) drain: Duration,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The generation before this one retires, or is gone: this one is live.
    Live,
    ReloadRequested,
    PreflightDone {
        green: Generation,
        result: Result<(), String>,
    },
    Gated {
        green: Generation,
    },
    Spawned {
        green: Generation,
        result: Result<Pid, String>,
    },
    GreenReady {
        green: Generation,
    },
    GreenFailed {
        green: Generation,
        reason: String,
    },
    GreenExtends {
        green: Generation,
        by: Duration,
    },
    GreenExited {
        green: Generation,
        how: String,
    },
    Verified {
        green: Generation,
        result: Result<(), String>,
    },
    CutOver {
        green: Generation,
        result: Result<(), String>,
    },
    ListenersClosed,
    ConnectionsGone,
    StopRequested,
    HammerRequested,
}

/// What the host has to do. Those that bring something back name the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Is there an executable, and does the application agree? → [`Event::PreflightDone`]
    Preflight { green: Generation },
    /// Steer every group to its own slots. → [`Event::Gated`]
    Gate { green: Generation },
    /// Start green. → [`Event::Spawned`], and only after it `GreenReady`, `GreenFailed`, `GreenExtends`, `GreenExited`
    Spawn { green: Generation },
    /// Does green listen on each address? → [`Event::Verified`]
    Verify { green: Generation },
    /// Steer all new connections to green. → [`Event::CutOver`]
    CutOver { green: Generation },
    /// Steer all new connections back to this generation.
    SteerBack,
    /// Kill green. → [`Event::GreenExited`]
    Kill { green: Generation },
    /// Green is the live generation: tell it, the PID file and the service manager.
    HandOver { green: Generation },
    /// Take in what is on its way, close the listeners. → [`Event::ListenersClosed`]
    Retire,
    /// There is no next generation: take in what is in the accept queues, close the listeners. → [`Event::ListenersClosed`]
    StopAccepting,
    /// Close the listeners without waiting any longer. → [`Event::ListenersClosed`]
    CloseNow,
    /// Wait for the last connection. → [`Event::ConnectionsGone`]
    AwaitConnections,
    /// Close the connections that are left. → [`Event::ConnectionsGone`]
    Hammer,
    /// End the drain of the generations before this one.
    HammerPredecessors,
    /// This generation has become the live one.
    BecomeLive,
    /// A reload has ended.
    Report(Outcome),
    /// A reload was asked for at the wrong time.
    Refuse { reason: String },
    /// Green died after it had become the live generation: nothing can be taken back.
    GreenLost { green: Generation, how: String },
    /// The end.
    Finish,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Preflight,
    Gate,
    Spawn,
    Ready,
    Verify,
    CutOver,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Attempt {
    green: Generation,
    pid: Option<Pid>,
    began: Instant,
    deadline: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Serve,
    Stop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// A reload that is asked for now is begun when it is live: MAINPID and the PID file may name it already.
    Standby {
        reload: bool,
    },
    Serving,
    Rolling {
        attempt: Attempt,
        step: Step,
    },
    RollingBack {
        attempt: Attempt,
        reason: String,
        then: Then,
    },
    Retiring {
        successor: Option<Generation>,
        deadline: Instant,
        forced: bool,
        hammer: bool,
    },
    Draining {
        successor: Option<Generation>,
        deadline: Instant,
        hammered: bool,
    },
    Gone,
}

/// The life of one generation. See the module's text.
#[derive(Debug, Clone)]
pub(crate) struct Rollout {
    me: Generation,
    last: Generation,
    times: Times,
    state: State,
    stops: u8,
}

impl Rollout {
    /// A generation that listens and has nobody before it.
    pub(crate) fn serving(me: Generation, times: Times) -> Rollout {
        Rollout { me, last: me, times, state: State::Serving, stops: 0 }
    }

    /// A generation that listens while another one is live.
    pub(crate) fn standby(me: Generation, times: Times) -> Rollout {
        Rollout { me, last: me, times, state: State::Standby { reload: false }, stops: 0 }
    }

    /// Where it stands.
    pub(crate) fn phase(&self) -> Phase {
        match &self.state {
            State::Standby { .. } => Phase::Standby,
            State::Serving => Phase::Serving,
            State::Rolling { step: Step::Preflight | Step::Gate, .. } => Phase::Preflight,
            State::Rolling { step: Step::Spawn | Step::Ready, .. } => Phase::Starting,
            State::Rolling { step: Step::Verify, .. } => Phase::Verifying,
            State::Rolling { step: Step::CutOver, .. } => Phase::CuttingOver,
            State::RollingBack { .. } => Phase::RollingBack,
            State::Retiring { .. } => Phase::Retiring,
            State::Draining { .. } => Phase::Draining,
            State::Gone => Phase::Gone,
        }
    }

    /// When [`Rollout::handle_timeout`] has to be called, if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Rolling { attempt, .. } | State::RollingBack { attempt, .. } => Some(attempt.deadline),
            State::Retiring { deadline, .. } | State::Draining { deadline, .. } => Some(*deadline),
            State::Standby { .. } | State::Serving | State::Gone => None,
        }
    }

    /// Takes one event.
    #[must_use = "the effects have to be performed"]
    pub(crate) fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match event {
            Event::Live => self.live(now),
            Event::ReloadRequested => self.reload_requested(now),
            Event::PreflightDone { green, result } => match self.attempt_at(green, Step::Preflight) {
                Some(_) => self.advance(Step::Gate, Effect::Gate { green }, result, now),
                None => vec![],
            },
            Event::Gated { green } => match self.attempt_at(green, Step::Gate) {
                Some(_) => self.advance(Step::Spawn, Effect::Spawn { green }, Ok(()), now),
                None => vec![],
            },
            Event::Spawned { green, result } => self.spawned(green, result, now),
            Event::GreenReady { green } => match self.attempt_at(green, Step::Ready) {
                Some(_) => self.advance(Step::Verify, Effect::Verify { green }, Ok(()), now),
                None => vec![],
            },
            Event::GreenExtends { green, by } => self.extended(green, by, now),
            Event::GreenFailed { green, reason } => self.failed(green, reason, now),
            Event::GreenExited { green, how } => self.exited(green, how, now),
            Event::Verified { green, result } => match self.attempt_at(green, Step::Verify) {
                Some(_) => self.advance(Step::CutOver, Effect::CutOver { green }, result, now),
                None => vec![],
            },
            Event::CutOver { green, result } => self.cut_over(green, result, now),
            Event::ListenersClosed => self.listeners_closed(now),
            Event::ConnectionsGone => self.connections_gone(),
            Event::StopRequested => self.stop_requested(now),
            Event::HammerRequested => self.hammer_requested(now),
        }
    }

    /// Takes the passing of [`Rollout::deadline`]; does nothing before it.
    #[must_use = "the effects have to be performed"]
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<Effect> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return vec![];
        }
        match &mut self.state {
            State::Rolling { step, .. } => {
                let reason = match step {
                    Step::Ready => format!("did not become ready in {:?}", self.times.ready),
                    Step::Preflight => format!("was not agreed to by the application in {:?}", self.times.ready),
                    Step::Gate | Step::Spawn => format!("could not be started in {STEP:?}"),
                    Step::Verify => format!("could not be looked at in {STEP:?}"),
                    Step::CutOver => format!("could not be steered to in {STEP:?}"),
                };
                self.roll_back(reason, Then::Serve, now)
            }
            State::RollingBack { reason, .. } => {
                reason.push_str(&format!("; its process is not gone {KILL:?} after it was killed"));
                self.rolled_back(now)
            }
            State::Retiring { forced: false, deadline, .. } => {
                *deadline = now + STEP;
                if let State::Retiring { forced, .. } = &mut self.state {
                    *forced = true;
                }
                vec![Effect::CloseNow]
            }
            State::Retiring { forced: true, .. } => self.listeners_closed(now),
            State::Draining { hammered, deadline, .. } if !*hammered => {
                *hammered = true;
                *deadline = now + HAMMER;
                vec![Effect::Hammer]
            }
            State::Draining { .. } => self.finish(),
            State::Standby { .. } | State::Serving | State::Gone => vec![],
        }
    }

    fn attempt_at(&mut self, green: Generation, at: Step) -> Option<&mut Attempt> {
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
    fn advance(&mut self, to: Step, effect: Effect, result: Result<(), String>, now: Instant) -> Vec<Effect> {
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

    fn live(&mut self, now: Instant) -> Vec<Effect> {
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

    fn reload_requested(&mut self, now: Instant) -> Vec<Effect> {
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

    fn spawned(&mut self, green: Generation, result: Result<Pid, String>, now: Instant) -> Vec<Effect> {
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

    fn extended(&mut self, green: Generation, by: Duration, now: Instant) -> Vec<Effect> {
        if let Some(attempt) = self.attempt_at(green, Step::Ready) {
            attempt.deadline = attempt.deadline.max(now + by);
        }
        vec![]
    }

    fn failed(&mut self, green: Generation, reason: String, now: Instant) -> Vec<Effect> {
        match self.attempt_at(green, Step::Ready) {
            Some(_) => self.roll_back(reason, Then::Serve, now),
            None => vec![],
        }
    }

    fn exited(&mut self, green: Generation, how: String, now: Instant) -> Vec<Effect> {
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

    fn cut_over(&mut self, green: Generation, result: Result<(), String>, now: Instant) -> Vec<Effect> {
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

    /// There is no process, and no word of one to wait for: back to the step before.
    fn nothing_spawned(&mut self) {
        if let State::Rolling { step, attempt } = &mut self.state {
            attempt.pid = None;
            if *step == Step::Spawn {
                *step = Step::Gate;
            }
        }
    }

    /// Gives the attempt up: everything is steered back, and green, if there is one, killed.
    fn roll_back(&mut self, reason: String, then: Then, now: Instant) -> Vec<Effect> {
        let State::Rolling { attempt, step } = &mut self.state else { return vec![] };
        let (green, step) = (attempt.green, *step);
        attempt.deadline = now + KILL;
        let alive = attempt.pid.is_some();
        self.state = State::RollingBack { attempt: attempt.clone(), reason, then };
        let mut effects = match step {
            Step::Preflight => vec![],
            Step::Gate | Step::Spawn | Step::Ready | Step::Verify | Step::CutOver => vec![Effect::SteerBack],
        };
        if alive {
            effects.push(Effect::Kill { green });
        } else if step != Step::Spawn {
            effects.extend(self.rolled_back(now));
        }
        effects
    }

    fn rolled_back(&mut self, now: Instant) -> Vec<Effect> {
        let State::RollingBack { attempt, reason, then } = &self.state else { return vec![] };
        let outcome = Outcome::RolledBack {
            generation: attempt.green,
            reason: reason.clone(),
            took: now.duration_since(attempt.began),
        };
        let then = *then;
        self.state = State::Serving;
        let mut effects = vec![Effect::Report(outcome)];
        match then {
            Then::Serve => {}
            Then::Stop => effects.extend(self.stop_accepting(now)),
        }
        effects
    }

    fn stop_accepting(&mut self, now: Instant) -> Vec<Effect> {
        self.state = State::Retiring { successor: None, deadline: now + STEP, forced: false, hammer: false };
        vec![Effect::StopAccepting]
    }

    fn listeners_closed(&mut self, now: Instant) -> Vec<Effect> {
        let State::Retiring { successor, hammer, .. } = self.state else { return vec![] };
        let wait = if hammer { HAMMER } else { self.times.drain };
        self.state = State::Draining { successor, deadline: now + wait, hammered: hammer };
        match hammer {
            true => vec![Effect::AwaitConnections, Effect::Hammer],
            false => vec![Effect::AwaitConnections],
        }
    }

    fn connections_gone(&mut self) -> Vec<Effect> {
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

    fn stop_requested(&mut self, now: Instant) -> Vec<Effect> {
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

    fn stop_at_once(&mut self, now: Instant) -> Vec<Effect> {
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

    fn hammer_requested(&mut self, now: Instant) -> Vec<Effect> {
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

    fn finish(&mut self) -> Vec<Effect> {
        self.state = State::Gone;
        vec![Effect::Finish]
    }
}

#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
