//! `deploy/deploy.sh` with the unit: by `systemctl reload`, and by the PID file.

use std::process::{Child, Output, Stdio};

use super::{EXITS, HANGS, PROGRAM, SOON, Site, on_each_suite, server_at};
use crate::support::load::Mode;
use crate::support::systemd::{Suite, said};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/deploy.sh");
const DEPLOY: &str = "/usr/local/bin/deploy.sh";
const ROOT: &str = "/srv/app";
const PID_FILE: &str = "/run/cutover/cutover.service/cutover.pid";

/// The option by which deploy.sh finds the server.
type Way = [&'static str; 2];
const BY_UNIT: Way = ["--unit", "cutover"];
const BY_PID_FILE: Way = ["--pid-file", PID_FILE];

on_each_suite! {
    good_broken_and_hanging_releases_by_unit;
    good_broken_and_hanging_releases_by_pid_file;
    two_at_once;
}

impl Site {
    /// A server that runs from its first release, and three more releases to deploy.
    fn with_releases(suite: Suite, options: &str) -> Option<Site> {
        let lines = server_at(&format!("{ROOT}/current/server"), options);
        Site::prepare(suite, "cutover.service", &lines, |machine| {
            machine.copy(SCRIPT, DEPLOY);
            for folder in [&format!("{ROOT}/releases/first"), "/root/good", "/root/broken", "/root/hanging"] {
                machine.must(&["mkdir", "-p", folder]);
            }
            machine.must(&["ln", "-s", "releases/first", &format!("{ROOT}/current")]);
            machine.link(PROGRAM, &format!("{ROOT}/releases/first/server"));
            machine.link(PROGRAM, "/root/good/server");
            machine.script(EXITS, "/root/broken/server");
            machine.script(HANGS, "/root/hanging/server");
        })
    }

    fn begin_deploy(&self, way: Way, options: &[&str], release: &str) -> Child {
        let mut command = self.machine.command(&[&[DEPLOY, "--root", ROOT], &way[..], options, &[release]].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run timeout(1) and nsenter(1)")
    }

    fn deploy(&self, way: Way, options: &[&str], release: &str) -> Output {
        self.begin_deploy(way, options, release).wait_with_output().expect("wait for deploy.sh")
    }

    fn current(&self) -> String {
        self.machine.must(&["readlink", &format!("{ROOT}/current")])
    }

    /// Asserts that the PID file, systemd and a new connection name the same process.
    #[track_caller]
    fn assert_agreed(&self, generation: u64) {
        let in_file = String::from_utf8_lossy(&self.machine.read(PID_FILE)).trim().parse();
        let pid = self.main_pid();
        assert_eq!((self.who_answers(), in_file), ((generation, pid), Ok(pid)));
        assert_eq!(self.property("ActiveState"), "active");
    }
}

fn good_broken_and_hanging_releases_by_unit(suite: Suite) {
    good_broken_and_hanging_releases(suite, BY_UNIT);
}

fn good_broken_and_hanging_releases_by_pid_file(suite: Suite) {
    good_broken_and_hanging_releases(suite, BY_PID_FILE);
}

fn good_broken_and_hanging_releases(suite: Suite, way: Way) {
    let Some(site) = Site::with_releases(suite, "--ready-timeout 1s") else { return };
    let load = site.load(Mode::Close);
    let mut generation = 1;
    for _ in 0..2 {
        let before = site.current();
        let done = site.deploy(way, &[], "/root/good");
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
        generation += 1;
        load.wait_generation(generation, SOON);
        site.assert_agreed(generation);
        let (pid, mark, current) = (site.main_pid(), site.mark(), site.current());
        assert_ne!(current, before);
        for bad in ["/root/broken", "/root/hanging"] {
            let done = site.deploy(way, &["--timeout", "5"], bad);
            assert_eq!(done.status.code(), Some(75), "{}", said(&done));
            assert!(said(&done).contains(&format!("process {pid} serves on")), "{}", said(&done));
            assert_eq!(site.current(), current, "flipped back");
            site.assert_agreed(generation);
        }
        // Each attempt has its own generation number.
        generation += 2;
        site.wait_log(mark, &format!("reload failed: generation {generation} "));
    }
    load.stop().assert_nothing_lost();
    assert_eq!(site.property("NRestarts"), "0");
}

fn two_at_once(suite: Suite) {
    let Some(site) = Site::with_releases(suite, "") else { return };
    let load = site.load(Mode::Close);
    let deploys = [BY_UNIT, BY_PID_FILE].map(|way| site.begin_deploy(way, &[], "/root/good"));
    for deploy in deploys {
        let done = deploy.wait_with_output().expect("wait for deploy.sh");
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    }
    load.wait_generation(3, SOON);
    load.stop().assert_nothing_lost();
    site.assert_agreed(3);
}
