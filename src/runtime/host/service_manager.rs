//! What the service manager is told while this generation has the office.

use super::{Host, Office};
use crate::model::rollout::Rollout;
use crate::runtime::pid_file::PidFile;
use crate::runtime::service_manager::{Standing, Voice};

impl Host {
    pub(super) fn tell_manager(&mut self, rollout: &Rollout) {
        if self.office == Office::Held {
            self.voice.watchdog();
            self.with_standing(|voice, standing| voice.beat(rollout, standing));
            self.write_what_is_due();
        }
    }

    /// The disk of the PID file may answer again.
    fn write_what_is_due(&self) {
        if let Some(pid_file) = self.pid_file.clone().filter(PidFile::is_due) {
            let pid = self.pid;
            tokio::spawn(async move { pid_file.write(pid).await });
        }
    }

    pub(super) fn tell_ready(&mut self) {
        self.with_standing(Voice::ready);
    }

    fn with_standing(&mut self, tell: impl FnOnce(&mut Voice, &Standing<'_>)) {
        let draining = self.predecessors.draining().iter().map(|drainer| drainer.generation).collect();
        let (generation, connections) = (self.generation, self.connections.open());
        let standing = Standing { generation, connections, draining, failed: self.failed.as_deref(), says: None };
        tell(&mut self.voice, &standing);
    }
}
