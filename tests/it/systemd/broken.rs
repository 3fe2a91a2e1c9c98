//! A reload to a bad binary: the service stays active, the old process serves on, and a verb that waits for the reload
//! reports the failure.

use super::{BY_SIGNAL, EXITS, HANGS, PROGRAM, REAL, SERVER, Site, on_each_suite, own_server};
use crate::support::load::Mode;
use crate::support::systemd::{Suite, said};

on_each_suite! {
    by_signal;
    and_a_reload_that_waits_fails;
    with_the_verbs_in_it;
}

/// The old generation serves on after each bad binary, then a good one goes live; no request is lost.
fn trial(site: &Site, server: &str, bad: &[&str], mut reload: impl FnMut()) {
    let load = site.load(Mode::Close);
    let pid = site.main_pid();
    let mut generation = 1;
    for text in bad {
        generation += 1;
        site.machine.script(text, server);
        reload();
        site.assert_serves(1, pid);
    }
    site.machine.copy(REAL, server);
    site.reload(generation + 1);
    load.wait_generation(generation + 1, super::SOON);
    load.stop().assert_nothing_lost();
    assert_ne!(site.main_pid(), pid);
}

/// systemctl(1) succeeds as soon as the signal is sent; the journal has the reason.
fn by_signal(suite: Suite) {
    let Some(site) = Site::start(suite, "cutover.service", BY_SIGNAL) else { return };
    trial(&site, PROGRAM, &[EXITS, "garbage"], || {
        let mark = site.mark();
        site.systemctl("reload");
        let line = site.wait_log(mark, "reload failed: generation ");
        assert!(line.contains("generation 1 serves on"), "{line}");
    });
}

fn and_a_reload_that_waits_fails(suite: Suite) {
    let lines = own_server("--ready-timeout 1s");
    let Some(site) = Site::start(suite, "cutover.service", &lines) else { return };
    trial(&site, SERVER, &[EXITS, HANGS, "garbage"], || {
        let mark = site.mark();
        let done = site.systemctl("reload");
        assert!(!done.status.success(), "{}", said(&done));
        site.wait_log(mark, "generation 1 serves on");
        // The exit code of the verb.
        site.wait_log(mark, "status=75");
    });
}

/// The deployed file also has the verb `reload`: no server is asked for anything, and the reload fails as well.
fn with_the_verbs_in_it(suite: Suite) {
    let Some(site) = Site::start(suite, "cutover.service", "") else { return };
    let pid = site.main_pid();
    site.machine.script(EXITS, PROGRAM);
    let done = site.systemctl("reload");
    assert!(!done.status.success(), "{}", said(&done));
    site.assert_serves(1, pid);
    site.machine.copy(REAL, PROGRAM);
    site.reload(2);
}

/// systemd waits for READY=1, which is sent after a failed reload too: only the journal and the status line show the
/// failure.
#[test]
fn of_notify_reload() {
    let Some(site) = Site::start(Suite::Trixie, "cutover-notify-reload.service", "") else { return };
    trial(&site, PROGRAM, &[EXITS, "garbage"], || {
        let mark = site.mark();
        let done = site.systemctl("reload");
        assert!(done.status.success(), "{}", said(&done));
        site.wait_log(mark, "reload failed: generation ");
        let status = site.property("StatusText");
        assert!(status.starts_with("generation 1 serves: ") && status.contains(" failed: "), "{status}");
    });
}
