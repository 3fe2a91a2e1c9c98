//! What the service manager is told while this generation has the office: that it lives, how it stands, and that it
//! needs more time (sd_notify(3)).

use std::fmt::Write as _;
use std::time::Duration;

use super::{Host, Office};
use crate::model::event::Phase;
use crate::model::rollout::Rollout;
use crate::runtime::beat::BEAT;
use crate::runtime::service_manager::NotifyState;

/// For so long each beat asks for more time, while a rollout or a drain is under way: a few beats may come late.
const MORE: Duration = BEAT.saturating_mul(4);

impl Host {
    /// A reload begins: in one datagram, as systemd wants it (sd_notify(3), RELOADING=1).
    pub(super) fn tell_reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.manager.send(&[NotifyState::Reloading, now]);
        }
    }

    /// The driver lives, which is what the watchdog wants to know; and how it stands, if that has changed.
    pub(crate) fn beat(&mut self, rollout: &Rollout) {
        if self.office != Office::Held {
            return;
        }
        if self.watchdog.is_some() {
            self.manager.try_send(&[NotifyState::Watchdog]);
        }
        if !matches!(rollout.phase(), Phase::Serving | Phase::Standby) {
            let more = u32::try_from(MORE.as_micros()).unwrap_or(u32::MAX);
            self.manager.try_send(&[NotifyState::ExtendTimeoutUsec(more)]);
        }
        self.tell_status(rollout);
    }

    /// How it stands, if that has changed and there is anybody to tell.
    pub(crate) fn tell_status(&mut self, rollout: &Rollout) {
        if self.office != Office::Held || self.manager.name().is_none() {
            return;
        }
        let status = self.status_line(rollout);
        if status != self.told {
            self.manager.try_send(&[NotifyState::Status(&status)]);
            self.told = status;
        }
    }

    fn status_line(&mut self, rollout: &Rollout) -> String {
        let (me, open) = (self.generation, self.connections.open());
        let mut line = match rollout.status(std::time::Instant::now()) {
            None => format!("generation {me} {}: {}", doing(rollout.phase()), connections(open)),
            Some(under_way) => {
                let share = match under_way.phase {
                    Phase::Canary => format!(" {}", under_way.share),
                    _ => String::new(),
                };
                let (next, phase) = (under_way.generation, under_way.phase);
                format!("generation {me} serves: {}; generation {next}: {phase}{share}", connections(open))
            }
        };
        for drainer in self.predecessors.draining() {
            // Writing to a String does not fail.
            let _ = write!(line, "; generation {} drains", drainer.generation);
        }
        if let (None, Some(failed)) = (rollout.status(std::time::Instant::now()), &self.failed) {
            let _ = write!(line, "; {failed}");
        }
        line
    }
}

fn connections(open: usize) -> String {
    if open == 1 { "1 connection".to_owned() } else { format!("{open} connections") }
}

fn doing(phase: Phase) -> &'static str {
    match phase {
        Phase::Retiring | Phase::Draining | Phase::Gone => "finishes what it has",
        Phase::Standby => "is ready",
        Phase::Serving
        | Phase::Preflight
        | Phase::Starting
        | Phase::Verifying
        | Phase::Probing
        | Phase::Canary
        | Phase::CuttingOver
        | Phase::Soaking
        | Phase::RollingBack => "serves",
    }
}
