//! `deploy/deploy.sh` against the unit, by its PID file.

use std::process::{Output, Stdio};

use super::{EXITS, HANGS, PROGRAM, SERVER, SOON, Site, on_each_suite, own_server};
use crate::support::load::Mode;
use crate::support::systemd::{Suite, said};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/deploy.sh");
const DEPLOY: &str = "/usr/local/bin/deploy.sh";
const PID_FILE: &str = "/run/cutover/cutover.service/cutover.pid";

on_each_suite! {
    good_broken_and_hanging_releases;
    two_at_once;
}

impl Site {
    fn with_deploys(suite: Suite, options: &str) -> Option<Site> {
        let site = Site::start(suite, "cutover.service", &own_server(options))?;
        site.machine.copy(SCRIPT, DEPLOY);
        Some(site)
    }

    fn deploy(&self, options: &[&str], release: &str) -> Output {
        self.machine.run(&[&[DEPLOY, "--pid-file", PID_FILE], options, &[release, SERVER]].concat())
    }

    /// The PID file, systemd and a new connection name the same process.
    #[track_caller]
    fn assert_agreed(&self, generation: u64) {
        let in_file = String::from_utf8_lossy(&self.machine.read(PID_FILE)).trim().parse();
        let pid = self.main_pid();
        assert_eq!((self.who_answers(), in_file), ((generation, pid), Ok(pid)));
        assert_eq!(self.property("ActiveState"), "active");
    }
}

fn good_broken_and_hanging_releases(suite: Suite) {
    let Some(site) = Site::with_deploys(suite, "--ready-timeout 1s") else { return };
    for (text, name) in [(EXITS, "/root/broken"), (HANGS, "/root/hanging")] {
        site.machine.script(text, name);
    }
    site.machine.link(PROGRAM, "/root/good");
    let load = site.load(Mode::Close);
    let mut generation = 1;
    for _ in 0..2 {
        let done = site.deploy(&[], "/root/good");
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
        let mark = site.mark();
        generation += 1;
        load.wait_generation(generation, SOON);
        site.assert_agreed(generation);
        let pid = site.main_pid();
        for bad in ["/root/broken", "/root/hanging"] {
            let done = site.deploy(&["--timeout", "5"], bad);
            assert_eq!(done.status.code(), Some(75), "{}", said(&done));
            assert!(said(&done).contains(&format!("process {pid} serves on")), "{}", said(&done));
            site.assert_agreed(generation);
        }
        // Each attempt has a number of its own.
        generation += 2;
        site.wait_log(mark, &format!("reload failed: generation {generation} "));
        assert!(site.machine.read(SERVER) == site.machine.read("/root/good"), "the good binary is not back");
    }
    load.stop().assert_nothing_lost();
    assert_eq!(site.property("NRestarts"), "0");
}

fn two_at_once(suite: Suite) {
    let Some(site) = Site::with_deploys(suite, "") else { return };
    site.machine.link(PROGRAM, "/root/good");
    let load = site.load(Mode::Close);
    let deploys = [(), ()].map(|()| {
        let mut command = site.machine.command(&[DEPLOY, "--pid-file", PID_FILE, "/root/good", SERVER]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run timeout(1) and nsenter(1)")
    });
    for deploy in deploys {
        let done = deploy.wait_with_output().expect("wait for deploy.sh");
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    }
    load.wait_generation(3, SOON);
    load.stop().assert_nothing_lost();
    site.assert_agreed(3);
}
