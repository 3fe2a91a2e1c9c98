//! The journal has one line for each transition of a rollout, and no other.

use super::{Site, UNIT, on_each_suite};
use crate::support::systemd::Suite;

on_each_suite! {
    one_line_a_transition;
}

fn one_line_a_transition(suite: Suite) {
    let Some(site) = Site::start(suite, "cutover.service", "") else { return };
    let mark = site.mark();
    site.reload(2);
    site.wait_log(mark, " gone generation=1 ");
    let lines = site.machine.journal_of(UNIT);
    let of = |generation: u32| -> Vec<String> {
        let words = format!(" rollout generation={generation} pid=");
        let told = lines.iter().filter_map(|line| line.split_once(&words)?.1.split_once(" from="));
        told.filter_map(|(_, rest)| Some(rest.split_once(" elapsed=")?.0.replace(" to=", " > "))).collect()
    };
    let blue = [
        "serving > preflight",
        "preflight > starting",
        "starting > verifying",
        "verifying > cutting over",
        "cutting over > retiring",
        "retiring > draining",
        "draining > gone",
    ];
    assert_eq!(of(1), blue);
    assert_eq!(of(2), ["standby > serving"]);
}
