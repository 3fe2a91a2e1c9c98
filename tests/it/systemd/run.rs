//! `cutover run` as a service: the supervisor is the main process, and remains so through every reload.

use super::{ADDRESS, PROGRAM, SOON, Site, on_each_suite};
use crate::support::load::{Mode, Report};
use crate::support::systemd::{Suite, said};

const RELOADS: u64 = 10;
/// A unit for `cutover run`; the hardened unit must also allow the system call by which the supervisor steers.
const RUN: &str = "ExecStart=\n\
    ExecStart=/usr/local/bin/cutover run --name %N --listen 0.0.0.0:80 -- /usr/local/bin/cutover serve --listen 0.0.0.0:80\n\
    SystemCallFilter=pidfd_getfd\nWatchdogSec=2s\n";

on_each_suite! {
    reloads_and_stops;
}

fn reloads_and_stops(suite: Suite) {
    let Some(site) = Site::start(suite, "cutover.service", RUN) else { return };
    let supervisor = site.main_pid();
    assert_ne!(site.who_answers().1, supervisor);
    let status = site.machine.must(&[PROGRAM, "status", "--name", "cutover"]);
    assert!(status.contains("steering     steered"), "{status}");
    let loads = [Mode::Close, Mode::KeepAlive].map(|mode| site.load(mode));
    for generation in 2..=RELOADS + 1 {
        let done = site.systemctl("reload");
        assert!(done.status.success(), "{}", said(&done));
        assert_eq!((site.who_answers().0, site.main_pid()), (generation, supervisor));
        loads[0].wait_generation(generation, SOON);
    }
    loads.into_iter().map(crate::support::load::Load::stop).for_each(|report: Report| {
        println!("{suite:?}: {RELOADS} reloads: {report}");
        report.assert_nothing_lost();
    });
    for line in site.machine.journal_of(site.unit) {
        assert!(!line.contains(" WARN ") && !line.contains(" ERROR "), "{line}");
    }
    assert_eq!(site.property("NRestarts"), "0");
    let text = site.property("StatusText");
    assert!(text.contains(&format!("generation {} serves", RELOADS + 1)), "{text}");
    let done = site.systemctl("stop");
    assert!(done.status.success(), "{}", said(&done));
    site.assert_stopped_well();
    let answer = site.machine.in_network(|| std::net::TcpStream::connect(ADDRESS)).map(drop);
    assert!(answer.is_err(), "somebody still listens");
}
