//! Releases that work go live, and no request is lost.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use super::site::{Place, REAL, SOON, Site, works, write_script};
use super::{Way, by_each_way};

/// Reads `current` in a loop: the symlink must always lead to a complete release.
struct Watch {
    stop: Arc<AtomicBool>,
    watching: JoinHandle<Result<usize, String>>,
}

impl Watch {
    fn begin(place: &Place) -> Watch {
        let (current, stop) = (place.root().join("current"), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let watching = std::thread::spawn(move || {
            let mut looks = 0;
            while !stopped.load(SeqCst) {
                looks += 1;
                let target = fs::read_link(&current).map_err(|error| format!("look {looks}, missing: {error}"))?;
                let last = current.join("zz last");
                fs::metadata(&last).map_err(|error| format!("look {looks}, {}: {error}", target.display()))?;
            }
            Ok(looks)
        });
        Watch { stop, watching }
    }

    #[track_caller]
    fn end(self) {
        self.stop.store(true, SeqCst);
        let looks = self.watching.join().expect("the watch does not panic").unwrap_or_else(|what| panic!("{what}"));
        assert!(looks > 1000, "only {looks} looks");
    }
}

by_each_way!(folders_and_single_files);

fn folders_and_single_files(way: Way) {
    let site = Site::start(way, &[]);
    let watch = Watch::begin(&site.place);
    let load = site.load();
    site.deploys("v2");
    load.wait_generation(2, SOON);
    watch.end();
    let file = site.place.path("server");
    write_script(&file, &works("new v3"));
    site.assert_live("v3", &site.deploy(&["--release", "v3"], &file));
    load.wait_generation(3, SOON);
    site.deploys("v4");
    load.wait_generation(4, SOON);
    // Back to a release that is still kept.
    let v2 = site.place.root().join("releases/v2");
    let ended = site.deploy(&["--release", "v5"], &v2);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!((site.place.current(), Site::release_of(site.live())), ("releases/v5".into(), "new v2".to_owned()));
    load.wait_generation(5, SOON);
    load.stop().assert_nothing_lost();
    assert_eq!(site.place.releases(), ["v1", "v2", "v3", "v4", "v5"]);
}

/// deploy.sh keeps as many releases as asked, always the running one, and only the last failed one; other files stay.
#[test]
fn keeps_so_many() {
    let site = Site::start(Way::PidFile, &[]);
    let releases = site.place.root().join("releases");
    for foreign in ["my backup", ".hidden", "v*"] {
        fs::create_dir(releases.join(foreign)).expect("a folder");
    }
    fs::write(releases.join("a-file"), "").expect("a file");
    for number in 2..=6 {
        let id = format!("v{number}");
        let new = site.place.good(&format!("new {id}"));
        // The time of the new folder must not decide: later releases get earlier times.
        let age = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 * (10 - number));
        fs::File::open(&new).expect("the folder").set_modified(age).expect("set");
        let ended = site.deploy(&["--release", &id, "--keep", "2"], &new);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        for bad in ["x", "y"] {
            let id = format!("{bad}{number}");
            let ended = site.deploy(&["--release", &id, "--keep", "2"], &site.place.folder(&format!("new {id}"), None));
            assert_eq!(ended.code, Some(75), "{ended:?}");
        }
        let (last, failed) = (format!("v{}", number - 1), format!("y{number}.failed"));
        let mut expected = [".hidden", "a-file", "my backup", "v*", &last, &id, &failed];
        expected.sort_unstable();
        assert_eq!(site.place.releases(), expected);
    }
    assert_eq!(Site::release_of(site.live()), "new v6");
    // A running release does not count as old: here an operator has flipped `current` to v5 by hand, with an absolute
    // path.
    fs::remove_file(site.place.root().join("current")).expect("removed");
    symlink(releases.join("v5"), site.place.root().join("current")).expect("a symlink");
    site.reload();
    for id in ["v7", "v8"] {
        let ended = site.deploy(&["--release", id, "--keep", "2"], &site.place.folder(&format!("new {id}"), None));
        assert_eq!(ended.code, Some(75), "{ended:?}");
        assert_eq!(site.place.current(), releases.join("v5"));
    }
    fs::create_dir(releases.join("v9")).expect("a folder, newer than v5");
    site.deploy(&["--release", "v10", "--keep", "2"], &site.place.good("new v10"));
    let expected = [".hidden", "a-file", "my backup", "v*", "v10", "v5", "v8.failed", "v9"];
    assert_eq!(site.place.releases(), expected);
}

/// A release that is a compiled binary; several deploys within one second get different names.
#[test]
fn the_process_runs_the_file_of_the_release() {
    let place_of = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).expect("it lives");
    let binary = |place: &Place| {
        let folder = place.path("built");
        fs::create_dir(&folder).expect("a folder");
        fs::copy(REAL, folder.join("server")).expect("copied");
        folder
    };
    let site = Site::start_of(Way::Name, &[], binary);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let ended = site.deploy(&[], &site.place.path("built"));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ids.push(ended.out.strip_suffix(" is live\n").expect("a name").to_owned());
        let release = site.place.root().join(site.place.current());
        assert_eq!(place_of(site.live()), release.join("server"));
    }
    ids.push("v1".to_owned());
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(site.place.releases(), ids);
    assert_eq!(ids.len(), 4);
}

#[test]
fn modes_times_and_symlinks_are_those_of_the_new_release() {
    let site = Site::start(Way::PidFile, &[]);
    let new = site.place.good("new v2");
    let age = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let inside = new.join("inside");
    fs::create_dir(&inside).expect("a folder");
    fs::write(inside.join("secret"), "").expect("a file");
    fs::set_permissions(inside.join("secret"), Permissions::from_mode(0o640)).expect("set");
    fs::File::open(inside.join("secret")).expect("it").set_modified(age).expect("set");
    fs::set_permissions(&inside, Permissions::from_mode(0o710)).expect("set");
    fs::set_permissions(&new, Permissions::from_mode(0o750)).expect("set");
    symlink("nowhere", new.join("link")).expect("a symlink");
    fs::write(new.join(".hidden"), "").expect("a file");
    assert_eq!(site.deploy(&["--release", "v2"], &new).code, Some(0));
    let release = site.place.root().join("releases/v2");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    assert_eq!((mode(&release), mode(&release.join("inside"))), (0o750, 0o710));
    assert_eq!(mode(&release.join("inside/secret")), 0o640);
    assert_eq!(fs::metadata(release.join("inside/secret")).expect("it").modified().expect("known"), age);
    assert_eq!(fs::read_link(release.join("link")).expect("a symlink"), Path::new("nowhere"));
    assert!(release.join(".hidden").exists());
}

#[test]
fn relative_paths_a_root_through_a_symlink_and_a_release_inside_of_it() {
    let site = Site::start(Way::PidFile, &[]);
    symlink("the root", site.place.path("-link")).expect("a symlink");
    fs::rename(site.place.good("new v2"), site.place.path("the root/incoming")).expect("moved");
    fs::rename(site.place.good("new v3"), site.place.path("-v3")).expect("moved");
    for (id, root, new) in [("v2", "the root", "the root/incoming"), ("v3", "-link/", "-v3")] {
        let mut command = std::process::Command::new(super::site::SCRIPT);
        command.args(["--pid-file", "server.pid", "--release", id, "--root", root, "--", new]);
        // With CDPATH, `cd` would find another folder of this name and print its path.
        command.env("CDPATH", "/:.").current_dir(site.place.path(""));
        let ended = super::site::Deploy::begin(command).end();
        assert_eq!((ended.code, ended.out), (Some(0), format!("{id} is live\n")), "{}", ended.err);
        assert_eq!(Site::release_of(site.live()), format!("new {id}"));
    }
}

/// The script runs in other shells, with other tools.
#[test]
fn in_other_shells() {
    let tools = Place::new();
    for shell in [&["dash"][..], &["bash", "--posix"], &["busybox", "sh"]] {
        let path: PathBuf = match which(shell[0]) {
            Some(path) => path,
            None => {
                crate::support::skip(&format!("there is no {}", shell[0]));
                continue;
            }
        };
        let site = Site::start(Way::PidFile, &[]);
        let folder = tools.path(shell[0]);
        fs::create_dir(&folder).expect("a folder");
        let mut only = std::env::var_os("PATH").expect("PATH");
        if shell[0] == "busybox" {
            // Busybox provides all of the tools.
            let list = std::process::Command::new(&path).arg("--list").output().expect("it lists them");
            for tool in String::from_utf8(list.stdout).expect("UTF-8").lines() {
                symlink(&path, folder.join(tool)).expect("a symlink");
            }
            only = folder.clone().into();
        }
        let run = |id: &str, new: &Path| {
            let command = site.command(&["--release", id], new);
            let mut in_shell = std::process::Command::new(&path);
            in_shell.args(&shell[1..]).arg(command.get_program()).args(command.get_args());
            in_shell.current_dir(site.place.path("")).env("PATH", &only);
            super::site::Deploy::begin(in_shell).end()
        };
        let live = site.live();
        site.assert_failed(live, &run("bad", &site.place.folder("bad", Some("#!/bin/sh\nexit 1\n"))));
        site.assert_live("v2", &run("v2", &site.place.good("new v2")));
    }
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").expect("PATH");
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.exists())
}
