//! `systemctl stop` at a bad time: requests in flight are finished, within TimeoutStopSec, and no process is left.

use std::process::Output;
use std::time::{Duration, Instant};

use super::{BY_SIGNAL, HANGS, Request, SERVER, Site, on_each_suite, own_server};
use crate::support::systemd::{Suite, said};

on_each_suite! {
    after_a_reload;
    in_a_drain;
    in_a_drain_that_does_not_end;
    in_a_rollout;
    in_the_first_rollout;
    in_a_rollout_that_is_waited_for;
}

impl Site {
    /// Stops the service: requests in flight, which end only after the stop began, must be answered.
    #[track_caller]
    fn stop_in_the_middle(&self, requests: Vec<Request>, stopping: &str) -> Output {
        let mark = self.mark();
        let stop = self.begin("stop");
        self.wait_log(mark, stopping);
        for request in requests {
            request.finish().expect("what was in flight is answered");
        }
        stop.wait_with_output().expect("wait for timeout(1)")
    }

    #[track_caller]
    fn stops_well(&self, requests: Vec<Request>, stopping: &str) {
        let done = self.stop_in_the_middle(requests, stopping);
        assert!(done.status.success(), "{}", said(&done));
        self.assert_stopped_well();
    }
}

fn after_a_reload(suite: Suite) {
    let Some(site) = Site::start(suite, "cutover.service", "") else { return };
    let mark = site.mark();
    site.reload(2);
    site.wait_log(mark, " gone generation=1 ");
    let request = Request::begin(&site);
    site.stops_well(vec![request], " draining generation=2 ");
}

fn in_a_drain(suite: Suite) {
    let Some(site) = Site::start(suite, "cutover.service", "") else { return };
    let mark = site.mark();
    let of_the_old = Request::begin(&site);
    site.reload(2);
    site.wait_log(mark, " draining generation=1 ");
    let of_the_new = Request::begin(&site);
    site.stops_well(vec![of_the_new, of_the_old], " draining generation=2 ");
}

/// Both generations have a request that never ends.
fn in_a_drain_that_does_not_end(suite: Suite) {
    let lines = own_server("--drain-timeout 2s") + "TimeoutStopSec=20s\n";
    let Some(site) = Site::start(suite, "cutover.service", &lines) else { return };
    let _of_the_old = Request::begin(&site);
    site.reload(2);
    let _of_the_new = Request::begin(&site);
    let began = Instant::now();
    let done = site.systemctl("stop");
    assert!(done.status.success(), "{}", said(&done));
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    site.assert_stopped_well();
}

/// The next generation hangs, and the main process is one that MAINPID= has named. In a reload systemd skips ExecStop=,
/// so the main process escapes SIGKILL only because it is systemd's own child.
fn in_a_rollout(suite: Suite) {
    in_the_rollout_of(suite, 3, BY_SIGNAL);
}

fn in_the_first_rollout(suite: Suite) {
    in_the_rollout_of(suite, 2, BY_SIGNAL);
}

/// The stop also ends the verb that waits for the reload, and so the service counts as failed.
fn in_a_rollout_that_is_waited_for(suite: Suite) {
    in_the_rollout_of(suite, 3, "");
}

fn in_the_rollout_of(suite: Suite, green: u64, lines: &str) {
    let Some(site) = Site::start(suite, "cutover.service", &(own_server("") + lines)) else { return };
    let mark = site.mark();
    for generation in 2..green {
        site.reload(generation);
        site.wait_log(mark, &format!(" gone generation={} ", generation - 1));
    }
    site.machine.script(HANGS, SERVER);
    let reload = site.begin("reload");
    site.wait_log(mark, &format!(" spawned generation={green} "));
    let request = Request::begin(&site);
    let stopping = format!(" draining generation={} ", green - 1);
    let done = site.stop_in_the_middle(vec![request], &stopping);
    reload.wait_with_output().expect("wait for timeout(1)");
    if lines == BY_SIGNAL {
        assert!(done.status.success(), "{}", said(&done));
        site.assert_stopped_well();
    } else {
        site.assert_stopped();
    }
}
