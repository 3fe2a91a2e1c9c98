//! The main process is killed: `Restart=` brings the service back, whichever generation the process was.

use super::{Request, SOON, Site, UNIT, on_each_suite};
use crate::support::systemd::Suite;

on_each_suite! {
    the_first_generation;
    the_second_generation;
    while_the_old_one_drains;
}

impl Site {
    #[track_caller]
    fn kill_main(&self) -> u32 {
        let pid = self.main_pid();
        self.machine.must(&["kill", "-KILL", &pid.to_string()]);
        pid
    }

    /// Asserts that systemd has restarted the service, once.
    #[track_caller]
    fn assert_comes_back(&self, killed: u32) {
        let is_back = || {
            let pid = self.main_pid();
            pid != 0 && pid != killed && self.property("SubState") == "running"
        };
        self.machine.wait("back", SOON, is_back);
        assert_eq!(self.property("NRestarts"), "1");
        assert_eq!(self.who_answers(), (1, self.main_pid()));
    }
}

fn the_first_generation(suite: Suite) {
    let Some(site) = Site::start(suite, "cutover.service", "") else { return };
    let killed = site.kill_main();
    site.assert_comes_back(killed);
}

fn the_second_generation(suite: Suite) {
    let Some(site) = Site::start(suite, "cutover.service", "") else { return };
    let mark = site.mark();
    site.reload(2);
    site.wait_log(mark, " gone generation=1 ");
    let killed = site.kill_main();
    site.assert_comes_back(killed);
}

/// The drain ends with the main process, because no process would listen as long as the drain goes on.
fn while_the_old_one_drains(suite: Suite) {
    let Some(site) = Site::start(suite, "cutover.service", "") else { return };
    let mark = site.mark();
    let request = Request::begin(&site);
    site.reload(2);
    site.wait_log(mark, " draining generation=1 ");
    let killed = site.kill_main();
    site.assert_comes_back(killed);
    assert_eq!(site.machine.pids(UNIT), [site.main_pid()]);
    request.finish().expect_err("the old one is gone");
}
