//! Concurrent actions: another deploy, or a reload.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::site::{Deploy, Place, SOON, Site, works_slowly};
use super::{Way, by_each_way};

by_each_way!(two_at_once, a_reload_of_somebody_else, a_reload_of_somebody_else_that_fails);

fn two_at_once(way: Way) {
    both(&Site::start(way, &[]), None);
}

#[test]
fn two_at_once_where_there_is_no_flock() {
    let tools = Place::new();
    let path = std::env::var_os("PATH").expect("PATH");
    for tool in ["cat", "cp", "date", "grep", "head", "ln", "ls", "mkdir", "mv"].into_iter().chain(MORE) {
        let found = std::env::split_paths(&path).map(|folder| folder.join(tool)).find(|file| file.exists());
        symlink(found.expect(tool), tools.path(tool)).expect("a symlink");
    }
    both(&Site::start(Way::PidFile, &[]), Some(&tools.path("")));
}

const MORE: [&str; 8] = ["readlink", "rm", "rmdir", "sed", "sleep", "tail", "touch", "tr"];

/// `path`: the PATH of both deploys, if not that of the test.
fn both(site: &Site, path: Option<&Path>) {
    let load = site.load();
    let news = ["v2", "v3"].map(|id| (id, site.place.good(&format!("new {id}"))));
    let deploys = news.each_ref().map(|(id, new)| {
        let mut command = site.command(&["--release", id], new);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        Deploy::begin(command)
    });
    let [v2, v3] = deploys.map(Deploy::end);
    assert_eq!((v2.out.as_str(), v3.out.as_str()), ("v2 is live\n", "v3 is live\n"), "{v2:?} {v3:?}");
    assert_eq!((v2.code, v3.code), (Some(0), Some(0)), "{v2:?} {v3:?}");
    // The deploys ran one after the other: no reload was refused, and no third one was made.
    load.wait_generation(2, SOON);
    load.wait_generation(3, SOON);
    assert!(!site.server.log_contains("reload refused") && !site.server.log_contains("generation 4"));
    load.stop().assert_nothing_lost();
    let last = Site::release_of(site.live());
    assert_eq!(site.place.current(), Path::new("releases").join(last.strip_prefix("new ").expect("a name")));
    let waited = [&v2, &v3].map(|ended| ended.err.contains("waiting for another deploy"));
    assert_eq!(waited.iter().filter(|waited| **waited).count(), 1, "{v2:?} {v3:?}");
    // The lock folder, which replaces flock, is gone as well.
    site.place.assert_tidy();
}

/// A generation of the old release is starting, and deploy.sh does not take it for its own.
fn a_reload_of_somebody_else(way: Way) {
    let site = while_somebody_reloads(way);
    let load = site.load();
    let deploy = begin(&site);
    fs::remove_file(site.place.path("hold")).expect("let it go on");
    site.assert_live("v2", &deploy.end());
    load.wait_generation(3, SOON);
    load.stop().assert_nothing_lost();
}

/// deploy.sh does not take the failure of another reload for its own.
fn a_reload_of_somebody_else_that_fails(way: Way) {
    let site = while_somebody_reloads(way);
    let deploy = begin(&site);
    fs::write(site.place.path("fail"), "").expect("a file");
    fs::remove_file(site.place.path("hold")).expect("let it go on");
    site.assert_live("v2", &deploy.end());
    assert_eq!(site.place.releases(), ["v1", "v2"]);
}

/// A refused reload is no error if another reload began a moment before.
fn a_reload_of_somebody_else_that_is_faster(way: Way) {
    let site = Site::start(way, &[]);
    for file in ["hold", "meddle"] {
        fs::write(site.place.path(file), "").expect("a file");
    }
    let slow = works_slowly("new v2", &site.place);
    let deploy = site.begin(&["--release", "v2"], &site.place.folder("slow", Some(&slow)));
    deploy.wait_says("the rollout of generation 2 is under way");
    // deploy.sh has recognised that the refusal was no failure.
    deploy.wait_says("waiting for the rollout that is under way");
    fs::remove_file(site.place.path("hold")).expect("let it go on");
    site.assert_live("v2", &deploy.end());
}

#[test]
fn a_reload_of_somebody_else_that_is_faster_by_name() {
    a_reload_of_somebody_else_that_is_faster(Way::Name);
}

#[test]
fn a_reload_of_somebody_else_that_is_faster_by_a_unit_that_waits() {
    a_reload_of_somebody_else_that_is_faster(Way::UnitWaits);
}

fn while_somebody_reloads(way: Way) -> Site {
    let first = |place: &Place| -> PathBuf { place.folder("new v1", Some(&works_slowly("new v1", place))) };
    let site = Site::start_of(way, &[], first);
    fs::write(site.place.path("hold"), "").expect("a file");
    site.server.hup();
    site.server.wait_log("spawned generation=2", SOON);
    site
}

/// Begins a deploy of `v2`, which waits for the other rollout.
fn begin(site: &Site) -> Deploy {
    let deploy = site.begin(&["--release", "v2"], &site.place.good("new v2"));
    match site.way {
        // By PID file, deploy.sh cannot see the rollout.
        Way::PidFile => drop(site.server.wait_log("reload refused", SOON)),
        Way::Name | Way::UnitHup | Way::UnitWaits => deploy.wait_says("waiting for the rollout that is under way"),
    }
    deploy
}
