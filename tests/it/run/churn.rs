//! Programs of several processes, each with a listener of its own: some die and are replaced during a rollout.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::join_group;
use crate::support::load::{Mode, Plan};
use crate::support::programs::Port;
use crate::support::run::{Run, Running};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/run/churn.py");
const SOON: Duration = Duration::from_secs(30);

struct Site {
    port: Port,
    flags: TempDir,
}

impl Site {
    fn new() -> Site {
        Site { port: Port::free(), flags: tempfile::tempdir().expect("a folder") }
    }

    fn start(&self, options: &[&str]) -> Running {
        self.is_ready(1);
        let (port, flags) = (self.port.address.port().to_string(), self.flags.path().display().to_string());
        let run = Run::at(self.port.address, ["python3", PROGRAM, &port, &flags]);
        run.args(["--ready", "http:/ready"]).args(options).ready()
    }

    fn is_ready(&self, generation: u64) {
        fs::write(self.flags.path().join(format!("ready.{generation}")), "").expect("written");
    }
}

/// The workers that have answered, all of this generation.
#[track_caller]
fn workers(site: &Site, generation: u64) -> BTreeSet<u32> {
    let load = Plan::new([site.port.address], 8, Mode::Close).start();
    load.wait_answered(300, SOON);
    let report = load.stop();
    report.assert_nothing_lost();
    assert_eq!(report.generations, BTreeSet::from([generation]), "{report}");
    report.pids
}

/// A worker of the first generation dies and is replaced, and until then no other generation answers.
#[track_caller]
fn one_is_replaced(site: &Site, run: &Running) {
    let before = workers(site, 1);
    assert_eq!(before.len(), 3);
    let (mark, killed) = (run.mark(), *before.first().expect("three"));
    run.signal(killed, Signal::KILL);
    run.wait_log_after(mark, "listeners have come or gone, steered anew", SOON);
    run.wait_until("three listeners again", || {
        let now = workers(site, 1);
        now.len() == 3 && !now.contains(&killed)
    });
}

/// The next generation listens and is not ready: no client reaches it, whichever worker of the old generation is
/// replaced.
#[test]
fn of_the_old_generation() {
    let site = Site::new();
    let run = site.start(&[]);
    run.hup();
    run.wait_log("to=probing", SOON);
    one_is_replaced(&site, &run);
    site.is_ready(2);
    run.wait_log("generation 2 is live", SOON);
    assert_eq!(workers(&site, 2).len(), 3, "each listener of the next generation has its part");
}

/// The same with a stranger in the group: the order of the stranger and of the replaced worker is unknown to the
/// supervisor, and still no connection goes astray.
#[test]
fn with_a_stranger() {
    let site = Site::new();
    let run = site.start(&[]);
    run.hup();
    run.wait_log("to=probing", SOON);
    let _stranger = join_group(site.port.address);
    one_is_replaced(&site, &run);
    site.is_ready(2);
    run.wait_log("go to the next generation generation=2 tier=steered", SOON);
    run.wait_log("gone generation=1 ", SOON);
    assert_eq!(workers(&site, 2).len(), 3);
    assert!(!run.log_contains("not steered"), "{}", run.log());
}

/// The listener of a replaced worker comes after all listeners of the next generation, and moves when that generation
/// is given up and ends.
#[test]
fn of_the_old_generation_and_the_new_one_is_given_up() {
    let site = Site::new();
    let run = site.start(&[]);
    for _ in 0..3 {
        let mark = run.mark();
        run.hup();
        run.wait_log_after(mark, "to=probing", SOON);
        one_is_replaced(&site, &run);
        let load = Plan::new([site.port.address], 8, Mode::Close).start();
        load.wait_answered(300, SOON);
        let mark = run.mark();
        run.verb("rollback").run().with(0);
        run.wait_log_after(mark, "rolled back", SOON);
        run.wait_until("only one generation is left", || run.members().len() == 4);
        load.wait_answered(300, SOON);
        let report = load.stop();
        report.assert_nothing_lost();
        assert_eq!(report.generations, BTreeSet::from([1]), "{report}");
    }
    assert!(!run.log_contains("not steered"), "{}", run.log());
}

/// The next generation has all new connections, and a rollback is still possible.
#[test]
fn of_the_new_generation_in_the_soak() {
    let site = Site::new();
    let run = site.start(&["--soak", "1h"]);
    site.is_ready(2);
    run.hup();
    run.wait_log("to=soaking", SOON);
    let before = workers(&site, 2);
    assert_eq!(before.len(), 3);
    let mark = run.mark();
    run.signal(*before.first().expect("three"), Signal::KILL);
    run.wait_log_after(mark, "listeners have come or gone, steered anew", SOON);
    run.wait_until("three listeners again", || workers(&site, 2).len() == 3);
}

/// Outside of a rollout each new listener gets its part at once.
#[test]
fn while_it_serves() {
    let site = Site::new();
    let run = site.start(&[]);
    site.is_ready(2);
    run.reload_to(2);
    run.wait_log("gone generation=1 ", SOON);
    let before = workers(&site, 2);
    let killed = *before.first().expect("three");
    run.signal(killed, Signal::KILL);
    // The connections in the killed worker's queue are lost, so the loads begin when the worker is gone.
    run.wait_until("it is gone", || !run.members().contains(&killed));
    run.wait_until("three again", || {
        let now = workers(&site, 2);
        now.len() == 3 && !now.contains(&killed)
    });
}
