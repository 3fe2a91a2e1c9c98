//! What the service manager is told while this generation has the office: that it lives, how it stands, and that it
//! needs more time (sd_notify(3)).

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
    pub(super) fn tell_manager(&mut self, rollout: &Rollout) {
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
    fn tell_status(&mut self, rollout: &Rollout) {
        if self.manager.name().is_none() {
            return;
        }
        let status = self.status_line(rollout);
        if status != self.told {
            self.manager.try_send(&[NotifyState::Status(&status)]);
            self.told = status;
        }
    }

    /// It serves, and no rollout is under way (any more): in one datagram with READY=1.
    pub(super) fn tell_ready(&mut self) {
        self.told = self.at_rest(Phase::Serving);
        self.manager.send(&[NotifyState::Ready, NotifyState::Status(&self.told)]);
    }

    fn status_line(&mut self, rollout: &Rollout) -> String {
        let Some(under_way) = rollout.status(std::time::Instant::now()) else { return self.at_rest(rollout.phase()) };
        let share = match under_way.phase {
            Phase::Canary => format!(" {}", under_way.share),
            _ => String::new(),
        };
        let (next, phase) = (under_way.generation, under_way.phase);
        let line = format!("{}; generation {next}: {phase}{share}", self.own_line(Phase::Serving));
        line + &self.drains()
    }

    fn at_rest(&mut self, phase: Phase) -> String {
        let failed = self.failed.as_ref().map(|failed| format!("; {failed}")).unwrap_or_default();
        self.own_line(phase) + &self.drains() + &failed
    }

    fn own_line(&self, phase: Phase) -> String {
        format!("generation {} {}: {}", self.generation, doing(phase), connections(self.connections.open()))
    }

    fn drains(&mut self) -> String {
        let draining = self.predecessors.draining();
        draining.iter().map(|drainer| format!("; generation {} drains", drainer.generation)).collect()
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
