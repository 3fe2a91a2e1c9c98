//! Releases that do not work: `current` leads to the old release again, the old process serves on, and no request is
//! lost.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::site::{HANGS, Place, SOON, Site, works, works_slowly, write_script};
use super::{Way, by_each_way};
use crate::support::run::wait_until;

by_each_way!(broken, hanging, hanging_longer_than_the_deploy_waits, late);

/// A kind of broken release, and the expected error for a server that is reloaded by its PID file.
struct Broken {
    make: fn(&Place) -> PathBuf,
    by_pid_file: &'static str,
}

const ENDED: &str = "the next generation ended before it was ready";
const NO_FILE: &str = "current/server is no executable file in this release";

const BROKEN: [Broken; 6] = [
    Broken { make: |place| place.folder("exits", Some("#!/bin/sh\nexit 1\n")), by_pid_file: ENDED },
    Broken { make: |place| place.folder("garbage", Some("\0garbage\0")), by_pid_file: ENDED },
    Broken {
        make: |place| {
            write_script(&place.path("server"), "#!/no/such/shell\n");
            place.path("server")
        },
        by_pid_file: ENDED,
    },
    Broken { make: |place| place.folder("without", None), by_pid_file: NO_FILE },
    Broken {
        make: |place| {
            let folder = place.folder("plain", Some(&works("plain")));
            fs::set_permissions(folder.join("server"), Permissions::from_mode(0o644)).expect("set");
            folder
        },
        by_pid_file: NO_FILE,
    },
    Broken {
        make: |place| {
            let folder = place.folder("deep", None);
            fs::create_dir(folder.join("server")).expect("a folder");
            folder
        },
        by_pid_file: NO_FILE,
    },
];

fn broken(way: Way) {
    let site = Site::start(way, &[]);
    let load = site.load();
    let live = site.live();
    for Broken { make, by_pid_file } in &BROKEN {
        let new = make(&site.place);
        let ended = site.deploy(&["--release", "bad"], &new);
        site.assert_failed(live, &ended);
        assert_eq!(site.server.pids(), [live], "{}: something is left", new.display());
        let why = match way {
            Way::PidFile => by_pid_file,
            Way::Name => "cutover reload failed",
            Way::UnitHup => "generation ",
            // The message depends on what deploy.sh detects first.
            Way::UnitWaits => "failed",
        };
        assert!(ended.err.contains(why), "{}: {ended:?}", new.display());
        assert!(!ended.err.contains("cannot be taken back"), "{}: {ended:?}", new.display());
    }
    site.deploys("v2");
    load.wait_answered(10, SOON);
    load.stop().assert_nothing_lost();
    assert_eq!(site.place.releases(), ["bad.failed", "v1", "v2"]);
}

fn hanging(way: Way) {
    let site = Site::start(way, &["--ready-timeout", "1s"]);
    let load = site.load();
    let live = site.live();
    let ended = site.deploy(&["--release", "bad"], &site.place.folder("hangs", Some(HANGS)));
    site.assert_failed(live, &ended);
    assert!(!ended.err.contains("cannot be taken back"), "{ended:?}");
    site.deploys("v2");
    load.wait_generation(3, SOON);
    load.stop().assert_nothing_lost();
}

fn hanging_longer_than_the_deploy_waits(way: Way) {
    let site = Site::start(way, &["--ready-timeout", "5s"]);
    let load = site.load();
    let live = site.live();
    let ended = site.deploy(&["--release", "bad", "--timeout", "2"], &site.place.folder("hangs", Some(HANGS)));
    site.assert_failed(live, &ended);
    site.server.wait_log("spawned generation=2", SOON);
    if way == Way::Name {
        assert!(ended.err.contains("was rolled back on request"), "{ended:?}");
        assert_eq!(site.server.pids(), [live], "the next generation is still there");
    } else {
        assert!(ended.err.contains("no other generation was live after 2 s"), "{ended:?}");
        assert!(ended.err.contains("cannot be taken back: should bad go live after all"), "{ended:?}");
    }
    // The server still waits for the hanging generation, unless the deploy has rolled it back.
    site.deploys("v2");
    load.wait_generation(3, SOON);
    load.stop().assert_nothing_lost();
}

/// A release that becomes ready after the deploy gave up: by name the release was rolled back; otherwise the release
/// goes live, as the deploy has warned.
fn late(way: Way) {
    let site = Site::start(way, &[]);
    let live = site.live();
    let slow = works_slowly("slow", &site.place);
    fs::write(site.place.path("hold"), "").expect("a file");
    let ended = site.deploy(&["--release", "bad", "--timeout", "2"], &site.place.folder("slow", Some(&slow)));
    site.assert_failed(live, &ended);
    let told = ended.err.contains("should bad go live after all, reload the server once more");
    fs::remove_file(site.place.path("hold")).expect("let it go on");
    if way == Way::Name {
        assert!(!told, "{ended:?}");
        assert_eq!(site.server.pids(), [live], "the next generation is still there");
        return;
    }
    assert!(told, "{ended:?}");
    site.server.wait_log("reload done", SOON);
    // The generation that is now live writes the PID file, and its disk may be slow.
    wait_until("the PID file names the next generation", || site.live() != live);
    assert_eq!(Site::release_of(site.live()), "slow");
    site.assert_flipped_back();
    site.reload();
    assert_eq!(Site::release_of(site.live()), "new v1");
}
