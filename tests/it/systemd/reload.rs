//! `systemctl reload`, repeatedly and under load: no request fails, and systemd knows the live generation at every
//! moment.

use std::time::Instant;

use super::{ADDRESS, BY_SIGNAL, SOON, Site, TEMPLATE, UNIT, on_each_suite};
use crate::support::load::{Mode, Plan};
use crate::support::systemd::{Suite, said};

const RELOADS: u64 = 50;

on_each_suite! {
    fifty_reloads_that_wait;
    fifty_reloads_by_signal;
    fifty_reloads_of_an_instance;
    a_restart_is_seen_to_lose_and_to_leave_the_state;
}

#[test]
fn fifty_reloads_of_notify_reload() {
    // systemd 252 does not know the type.
    reload_under_load(Suite::Trixie, "cutover-notify-reload.service", "");
}

fn fifty_reloads_that_wait(suite: Suite) {
    reload_under_load(suite, "cutover.service", "");
}

fn fifty_reloads_by_signal(suite: Suite) {
    reload_under_load(suite, "cutover.service", BY_SIGNAL);
}

fn fifty_reloads_of_an_instance(suite: Suite) {
    reload_under_load(suite, TEMPLATE, "");
}

fn reload_under_load(suite: Suite, unit_file: &str, lines: &str) {
    let Some(site) = Site::start(suite, unit_file, lines) else { return };
    let returns_early = lines == BY_SIGNAL;
    site.machine.log_states();
    let loads = [Mode::Close, Mode::KeepAlive].map(|mode| site.load(mode));
    let began = Instant::now();
    for generation in 2..=RELOADS + 1 {
        if returns_early {
            // This one waits until the generation is live, and so the main process.
            site.reload(generation);
        } else {
            let done = site.systemctl("reload");
            assert!(done.status.success(), "{}", said(&done));
        }
        let main_pid = site.main_pid();
        assert_eq!(site.who_answers(), (generation, main_pid), "after reload {generation}");
        loads[0].wait_generation(generation, SOON);
    }
    let took = began.elapsed();
    for load in loads {
        let report = load.stop();
        println!("{suite:?} {unit_file}: {RELOADS} reloads in {took:?}: {report}");
        report.assert_nothing_lost();
        assert!(report.generations.len() as u64 > RELOADS / 2, "the clients saw only {:?}", report.generations);
    }
    let main_pid = site.main_pid();
    site.machine.wait("the only process of the service", SOON, || site.machine.pids(site.unit) == [main_pid]);
    site.assert_serves(RELOADS + 1, main_pid);
    assert_stays_active(&site);
    let journal = site.machine.journal_of(site.unit);
    // systemd logs these words about a main process for which it cannot wait.
    assert!(!journal.iter().any(|line| line.contains("not our child")), "{journal:#?}");
}

fn assert_stays_active(site: &Site) {
    let states = site.machine.states(site.unit);
    let reloads = states.iter().filter(|state| state.starts_with("reload")).count();
    assert!(reloads as u64 >= RELOADS, "systemd told of {reloads} reloads only: {states:?}");
    assert!(!left(&states), "{states:?}");
}

/// Whether ActiveState had a value other than active and reloading.
fn left(states: &[String]) -> bool {
    let active = ["running", "reload", "reload-signal", "reload-notify"];
    !states.iter().all(|state| active.contains(&state.as_str()))
}

/// Negative control: a restart loses requests, and leaves the active state.
fn a_restart_is_seen_to_lose_and_to_leave_the_state(suite: Suite) {
    let Some(site) = Site::start(suite, "cutover.service", "") else { return };
    site.machine.log_states();
    let load = site.machine.load(Plan::new([ADDRESS], 8, Mode::Close));
    load.wait_answered(10, SOON);
    site.machine.must(&["systemctl", "restart", UNIT]);
    load.wait_answered(10, SOON);
    let report = load.stop();
    assert!(report.failures.total() > 0, "a restart lost nothing: {report}");
    let states = site.machine.states(UNIT);
    assert!(left(&states), "{states:?}");
}
