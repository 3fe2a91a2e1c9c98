//! The watchdog of systemd, and its timeout for a reload that takes long.

use super::{Site, on_each_suite, own_server};
use crate::support::load::Mode;
use crate::support::systemd::{Suite, said};

on_each_suite! {
    ten_reloads_without_a_restart_and_a_hung_process_is_killed;
    a_canary_longer_than_the_time_for_a_reload;
}

fn ten_reloads_without_a_restart_and_a_hung_process_is_killed(suite: Suite) {
    let Some(site) = Site::start(suite, "cutover.service", "WatchdogSec=2\n") else { return };
    let load = site.load(Mode::Close);
    // The time of the main process's last heartbeat, in microseconds.
    let heard = || site.property("WatchdogTimestampMonotonic").parse::<u64>().expect("a time");
    for generation in 2..=11 {
        site.reload(generation);
        let (since, span) = (heard(), if generation == 11 { 3_000_000 } else { 1 });
        // After the last reload, the heartbeats must go on for longer than the watchdog's time.
        site.machine.wait("a word of the main process", super::SOON, || heard() >= since + span);
    }
    let hung = site.main_pid();
    load.stop().assert_nothing_lost();
    assert_eq!(site.property("NRestarts"), "0");
    site.machine.must(&["kill", "-STOP", &hung.to_string()]);
    site.machine.wait("a restart", super::SOON, || site.property("NRestarts") == "1");
    site.machine.wait("the new main process", super::SOON, || {
        let pid = site.main_pid();
        pid != 0 && pid != hung && site.property("ActiveState") == "active"
    });
    assert_eq!(site.who_answers(), (1, site.main_pid()));
}

/// TimeoutStartSec= applies to a reload too. The server requests more time (EXTEND_TIMEOUT_USEC) as long as its rollout
/// goes on.
fn a_canary_longer_than_the_time_for_a_reload(suite: Suite) {
    let lines = format!("{}TimeoutStartSec=6\n", own_server("--canary 50%:10s"));
    let Some(site) = Site::start(suite, "cutover.service", &lines) else { return };
    let done = site.systemctl("reload");
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(site.who_answers(), (2, site.main_pid()));
}
