//! Interrupted deploys, and servers that end during a deploy.

use std::fs;
use std::io;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

use super::site::{HANGS, SOON, Site, tree, works_slowly};
use super::{Way, by_each_way};
use crate::support::run::wait_until;

by_each_way!(by_a_signal, by_a_signal_that_comes_too_late, by_the_end_of_the_server);

fn by_a_signal(way: Way) {
    let site = Site::start(way, &["--ready-timeout", "3s"]);
    let load = site.load();
    let live = site.live();
    let deploy = site.begin(&["--release", "bad"], &site.place.folder("hangs", Some(HANGS)));
    site.server.wait_log("spawned", SOON);
    deploy.signal(Signal::TERM);
    let ended = deploy.end();
    site.assert_failed(live, &ended);
    assert!(ended.err.contains("interrupted"), "{ended:?}");
    assert_eq!(ended.err.contains("cannot be taken back"), way != Way::Name, "{ended:?}");
    assert_eq!(site.server.pids().len(), if way == Way::Name { 1 } else { 2 }, "{ended:?}");
    assert_eq!(site.server.log_contains("was rolled back on request"), way == Way::Name, "{}", site.server.log());
    site.deploys("v2");
    load.wait_generation(3, SOON);
    load.stop().assert_nothing_lost();
}

/// The live release stays, and `current` leads to it.
fn by_a_signal_that_comes_too_late(way: Way) {
    let site = Site::start(way, &[]);
    fs::write(site.place.path("hold"), "").expect("a file");
    let (slow, live) = (works_slowly("new v2", &site.place), site.live());
    let deploy = site.begin(&["--release", "v2"], &site.place.folder("slow", Some(&slow)));
    site.server.wait_log("spawned", SOON);
    // The stopped deploy does not see the release go live.
    deploy.signal(Signal::STOP);
    fs::remove_file(site.place.path("hold")).expect("let it go on");
    site.server.wait_log("reload done", SOON);
    wait_until("the PID file names the next generation", || site.live() != live);
    deploy.signal(Signal::INT);
    deploy.signal(Signal::CONT);
    let ended = deploy.end();
    site.assert_live("v2", &ended);
    assert!(ended.err.contains("interrupted; but the release was live by then"), "{ended:?}");
}

fn by_the_end_of_the_server(way: Way) {
    let site = Site::start(way, &[]);
    let deploy = site.begin(&["--release", "bad"], &site.place.folder("hangs", Some(HANGS)));
    site.server.wait_log("spawned", SOON);
    site.server.signal(site.live(), Signal::KILL);
    let ended = deploy.end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(69), ""), "{ended:?}");
    assert!(ended.err.contains("no server is running"), "{ended:?}");
    site.assert_flipped_back();
}

/// Ctrl-C signals all processes of the deploy.
#[test]
fn by_a_signal_to_the_whole_group() {
    let site = Site::start(Way::Name, &[]);
    let live = site.live();
    let deploy = site.begin(&["--release", "bad"], &site.place.folder("hangs", Some(HANGS)));
    site.server.wait_log("spawned", SOON);
    deploy.signal_group(Signal::INT);
    let ended = deploy.end();
    site.assert_failed(live, &ended);
    assert_eq!(site.server.pids(), [live], "{ended:?}");
}

#[test]
fn while_it_waits_for_another_deploy() {
    let site = Site::start(Way::PidFile, &[]);
    let before = tree(&site.place.root());
    let lock = fs::File::open(site.place.root().join(".lock")).expect("the lock");
    flock(&lock, FlockOperation::LockExclusive).expect("locked");
    let deploy = site.begin(&["--release", "v2"], &site.place.good("new v2"));
    deploy.wait_says("waiting for another deploy");
    deploy.signal(Signal::TERM);
    let ended = deploy.end();
    assert_eq!(ended.code, Some(75), "{ended:?}");
    assert!(ended.err.contains("interrupted; nothing was changed"), "{ended:?}");
    assert_eq!(tree(&site.place.root()), before);
}

/// deploy.sh finishes its work though no process reads its output any more.
#[test]
fn by_the_end_of_whoever_read() {
    let site = Site::start(Way::Name, &[]);
    let live = site.live();
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    let mut command = site.command(&["--release", "bad"], &site.place.folder("exits", Some("#!/bin/sh\nexit 1\n")));
    command.stdin(Stdio::null()).stdout(writer.try_clone().expect("another")).stderr(writer);
    let status = command.spawn().expect("spawn deploy.sh").wait().expect("our own child");
    assert_eq!(status.code(), Some(75));
    assert_eq!(site.live(), live);
    site.assert_flipped_back();
    // The exit code is right too, though the last message cannot be written.
    fs::write(site.place.path("exits/server"), HANGS).expect("write");
    let mut deploy = command.spawn().expect("spawn deploy.sh");
    site.server.wait_log("spawned generation=3", SOON);
    site.server.signal(live, Signal::KILL);
    assert_eq!(deploy.wait().expect("our own child").code(), Some(69));
    site.assert_flipped_back();
}

/// No process that the killed deploy has started keeps the lock or blocks the server.
#[test]
fn by_a_kill() {
    let site = Site::start(Way::Name, &["--ready-timeout", "8s"]);
    let deploy = site.begin(&["--release", "bad"], &site.place.folder("hangs", Some(HANGS)));
    site.server.wait_log("spawned", SOON);
    deploy.kill();
    let lock = fs::File::open(site.place.root().join(".lock")).expect("the lock");
    let deadline = Instant::now() + Duration::from_secs(4);
    while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        assert!(Instant::now() < deadline, "the lock is held: {}", site.server.log());
        std::thread::yield_now();
    }
    drop(lock);
    let ended = site.deploy(&["--release", "v2"], &site.place.good("new v2"));
    site.assert_live("v2", &ended);
}
