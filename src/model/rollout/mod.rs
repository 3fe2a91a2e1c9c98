//! The machine of one generation's life: events come in, effects go out, what effects bring back is an event.
//!
//! It has no clock and does no I/O. Its host performs the effects; [`Rollout::deadline`] tells when to call
//! [`Rollout::handle_timeout`]. Results carry the generation of the attempt that they belong to, so that one which comes
//! too late is known as such.

use std::time::{Duration, Instant};

mod back;
mod ending;
mod forward;
mod interface;
mod state;

pub(crate) use interface::{Effect, Event};
use state::{State, Step, Then};

use super::event::Phase;
use super::identity::Generation;

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
}

#[cfg(test)]
mod tests;
