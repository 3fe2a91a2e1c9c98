//! The notifications to the service manager while this generation has the leadership.

use super::{Host, Leadership};
use crate::model::rollout::Rollout;
use crate::runtime::control::Control;
use crate::runtime::pid_file::PidFile;
use crate::runtime::service_manager::{ServiceManager, ServiceStatus};

impl Host {
    pub(super) fn tell_manager(&mut self, rollout: &Rollout) {
        if self.leadership == Leadership::Held {
            self.service_manager.watchdog();
            self.with_service_status(|service_manager, service_status| {
                service_manager.heartbeat(rollout, service_status)
            });
            self.write_what_is_due();
        }
    }

    /// Writes the PID file and takes over the control socket where that is still due: the disk may answer again.
    fn write_what_is_due(&self) {
        if self.control.as_ref().is_some_and(Control::is_due) {
            tokio::spawn(self.take_control());
        }
        if let Some(pid_file) = self.pid_file.clone().filter(PidFile::is_due) {
            let pid = self.context.pid;
            tokio::spawn(async move { pid_file.write(pid).await });
        }
    }

    pub(super) fn tell_serving(&mut self) {
        self.with_service_status(ServiceManager::ready);
    }

    fn with_service_status(&mut self, tell: impl FnOnce(&mut ServiceManager, &ServiceStatus<'_>)) {
        let draining = self.predecessors.draining().iter().map(|drainer| drainer.generation).collect();
        let (generation, connections) = (self.context.generation, self.connections.open());
        let service_status =
            ServiceStatus { generation, connections, draining, failed: self.context.failed.as_deref(), says: None };
        tell(&mut self.service_manager, &service_status);
    }
}
