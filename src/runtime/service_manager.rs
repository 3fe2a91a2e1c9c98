//! What the service manager is told by whoever has the leadership: that it lives, how it stands, and that it needs more time
//! (sd_notify(3)).

use std::time::{Duration, Instant};

use super::heartbeat::HEARTBEAT;
use super::notifier::{Notifier, NotifyState};
use crate::model::event::Phase;
use crate::model::identity::Generation;
use crate::model::rollout::Rollout;

/// For so long each heartbeat asks for more time, while a rollout or a drain is under way: a few heartbeats may come late.
const MORE: Duration = HEARTBEAT.saturating_mul(4);

/// The way to the service manager.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    manager: Notifier,
    watchdog: Option<Duration>,
    /// The status that was told last.
    told: String,
}

/// How the live generation stands.
#[derive(Debug)]
pub(crate) struct ServiceStatus<'a> {
    pub(crate) generation: Generation,
    pub(crate) connections: usize,
    pub(crate) draining: Vec<Generation>,
    /// What became of the last rollout, if it was rolled back.
    pub(crate) failed: Option<&'a str>,
    /// What a program says about itself.
    pub(crate) says: Option<&'a str>,
}

impl ServiceManager {
    /// `watchdog` is how often it wants to hear, if it does.
    pub(crate) fn new(manager: Notifier, watchdog: Option<Duration>) -> ServiceManager {
        ServiceManager { manager, watchdog, told: String::new() }
    }

    /// Whether there is somebody who listens.
    pub(crate) fn is_there(&self) -> bool {
        self.manager.is_some()
    }

    /// A reload begins: in one datagram, as systemd wants it (sd_notify(3), RELOADING=1).
    pub(crate) fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.manager.send(&[NotifyState::Reloading, now]);
        }
    }

    /// It serves, and no rollout is under way (any more): in one datagram with READY=1.
    pub(crate) fn ready(&mut self, service_status: &ServiceStatus<'_>) {
        self.told = service_status.at_rest(Phase::Serving);
        self.manager.send(&[NotifyState::Ready, NotifyState::Status(&self.told)]);
    }

    pub(crate) fn stopping(&self) {
        self.manager.send(&[NotifyState::Stopping]);
    }

    /// The way to the service manager alone.
    pub(crate) fn manager(&self) -> Notifier {
        self.manager.clone()
    }

    /// The loop lives, which is what the watchdog wants to know.
    pub(crate) fn watchdog(&self) {
        if self.watchdog.is_some() {
            self.manager.try_send(&[NotifyState::Watchdog]);
        }
    }

    /// What a program says to its watchdog, passed on.
    pub(crate) fn pass_on(&self, state: &NotifyState<'_>) {
        self.manager.try_send(std::slice::from_ref(state));
    }

    /// It needs this much more time, from now on.
    pub(crate) fn extend(&self, more: Duration) {
        let more = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
        self.manager.try_send(&[NotifyState::ExtendTimeoutUsec(more)]);
    }

    /// Asks for more time where something is under way, and tells how it stands, if that has changed.
    pub(crate) fn heartbeat(&mut self, rollout: &Rollout, service_status: &ServiceStatus<'_>) {
        if !self.is_there() {
            return;
        }
        if !matches!(rollout.phase(), Phase::Serving | Phase::Standby) {
            self.extend(MORE);
        }
        let status = service_status.line(rollout);
        if status != self.told {
            self.manager.try_send(&[NotifyState::Status(&status)]);
            self.told = status;
        }
    }
}

impl ServiceStatus<'_> {
    fn line(&self, rollout: &Rollout) -> String {
        let Some(under_way) = rollout.status(Instant::now()) else { return self.at_rest(rollout.phase()) };
        let share = match under_way.phase {
            Phase::Canary => format!(" {}", under_way.share),
            _ => String::new(),
        };
        let (next, phase) = (under_way.generation, under_way.phase);
        let line = format!("{}; generation {next}: {phase}{share}", self.own(Phase::Serving));
        line + &self.drains()
    }

    fn at_rest(&self, phase: Phase) -> String {
        let failed = self.failed.map(|failed| format!("; {failed}")).unwrap_or_default();
        let says = self.says.map(|says| format!("; {says}")).unwrap_or_default();
        self.own(phase) + &self.drains() + &failed + &says
    }

    fn own(&self, phase: Phase) -> String {
        let connections = if self.connections == 1 { "connection" } else { "connections" };
        format!("generation {} {}: {} {connections}", self.generation, doing(phase), self.connections)
    }

    fn drains(&self) -> String {
        self.draining.iter().map(|generation| format!("; generation {generation} drains")).collect()
    }
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
