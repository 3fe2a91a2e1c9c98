//! Notifications to the service manager from the generation that has the leadership: the watchdog, the status, and
//! requests for more time (sd_notify(3)).

use std::time::{Duration, Instant};

use super::heartbeat::HEARTBEAT;
use super::notifier::{Notifier, NotifyState};
use crate::model::event::Phase;
use crate::model::identity::Generation;
use crate::model::rollout::Rollout;

/// Extension requested by each heartbeat while a rollout or a drain is under way: long enough for a few heartbeats to
/// come late.
const MORE: Duration = HEARTBEAT.saturating_mul(4);

/// The service manager, as the receiver of notifications.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    manager: Notifier,
    watchdog: Option<Duration>,
    /// The status line that was sent last.
    told: String,
}

/// The parts of the status line of the live generation.
#[derive(Debug)]
pub(crate) struct ServiceStatus<'a> {
    pub(crate) generation: Generation,
    pub(crate) connections: usize,
    pub(crate) draining: Vec<Generation>,
    /// The reason why the last rollout was rolled back, if it was.
    pub(crate) failed: Option<&'a str>,
    /// The status that a supervised program gives of itself.
    pub(crate) says: Option<&'a str>,
}

impl ServiceManager {
    /// `watchdog` is the watchdog interval of the service manager; `None` if the watchdog is off.
    pub(crate) fn new(manager: Notifier, watchdog: Option<Duration>) -> ServiceManager {
        ServiceManager { manager, watchdog, told: String::new() }
    }

    /// Whether there is a service manager.
    pub(crate) fn is_there(&self) -> bool {
        self.manager.is_some()
    }

    /// Sends RELOADING=1 and the time in one datagram, as systemd requires (sd_notify(3), RELOADING=1).
    pub(crate) fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.manager.send(&[NotifyState::Reloading, now]);
        }
    }

    /// Sends READY=1 and the status in one datagram: the generation serves, and no rollout is under way (any more).
    pub(crate) fn ready(&mut self, service_status: &ServiceStatus<'_>) {
        self.told = service_status.at_rest(Phase::Serving);
        self.manager.send(&[NotifyState::Ready, NotifyState::Status(&self.told)]);
    }

    pub(crate) fn stopping(&self) {
        self.manager.send(&[NotifyState::Stopping]);
    }

    /// The notifier of the service manager alone.
    pub(crate) fn manager(&self) -> Notifier {
        self.manager.clone()
    }

    /// Tells the watchdog that the loop is alive, if the watchdog is on.
    pub(crate) fn watchdog(&self) {
        if self.watchdog.is_some() {
            self.manager.try_send(&[NotifyState::Watchdog]);
        }
    }

    /// Passes on a notification of a supervised program to its watchdog.
    pub(crate) fn pass_on(&self, state: &NotifyState<'_>) {
        self.manager.try_send(std::slice::from_ref(state));
    }

    /// Asks for this much more time, from now on (EXTEND_TIMEOUT_USEC).
    pub(crate) fn extend(&self, more: Duration) {
        let more = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
        self.manager.try_send(&[NotifyState::ExtendTimeoutUsec(more)]);
    }

    /// Asks for more time while a rollout or a drain is under way, and sends the status line if it has changed.
    pub(crate) fn heartbeat(&mut self, rollout: &Rollout, service_status: &ServiceStatus<'_>) {
        if !self.is_there() {
            return;
        }
        if !matches!(rollout.phase(), Phase::Serving | Phase::Standby) {
            self.extend(MORE);
        }
        let status = service_status.line(rollout);
        if status != self.told && self.manager.try_send(&[NotifyState::Status(&status)]) {
            self.told = status;
        }
    }
}

impl ServiceStatus<'_> {
    fn line(&self, rollout: &Rollout) -> String {
        let Some(under_way) = rollout.status(Instant::now()) else { return self.at_rest(rollout.phase()) };
        let is_canary = under_way.phase == Phase::Canary;
        let share = if is_canary { format!(" {}", under_way.share) } else { String::new() };
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
