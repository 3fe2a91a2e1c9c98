use std::cell::Cell;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::attributes::Attributes;
use super::super::process::{HeldProcess, Process};
use super::super::reaper::{Reaper, become_subreaper};
use super::super::reexec::{role, run_again};
use super::super::spawn::{self, Group, Program};
use super::*;

const MARKER: &[u8] = b"CUTOVER_RUN=12/3";

#[test]
fn a_name_with_brackets_spaces_and_no_utf8_does_not_confuse_it() {
    let rest = b" S 7 8 9 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 5 0 250 9";
    let stat = [b"12 (a) b (\xff) R 1 2 3)".as_slice(), rest].concat();
    let (parent, group, session) = (Pid::new(7), Pid::new(8), Pid::new(9));
    assert_eq!(Stat::parse(&stat), Some(Stat { parent, state: 'S', group, session, threads: 5, start: 250 }));
    for broken in [b"".as_slice(), b"12", b"12 (a)", b"12 (a) S 7 8", b"12 (a) S x 8 9 0 -1 0 0 0 0 0 0 0 0 0 20 0 1"] {
        assert_eq!(Stat::parse(broken), None);
    }
}

#[test]
fn this_process_is_seen_as_it_is() {
    let own = Pid::new(std::process::id());
    let snapshot = Snapshot::take().expect("/proc");
    let stat = snapshot.process(own).expect("alive");
    let number = |pid: rustix::process::Pid| Pid::new(pid.as_raw_nonzero().get().unsigned_abs());
    assert_eq!(Some(stat.parent), rustix::process::getppid().map(number).or(Some(Pid::new(0))));
    assert_eq!(stat.group, number(rustix::process::getpgrp()));
    assert!(stat.is_alive());
    assert!(snapshot.children_of(stat.parent).contains(&own));
    assert_eq!(snapshot.process(Pid::new(0)), None);
}

#[test]
fn a_zombie_whose_other_threads_run_is_alive() {
    let zombie = |threads| Stat { state: 'Z', threads, ..Snapshot::take().expect("/proc").processes[&own()] };
    assert!(zombie(2).is_alive());
    assert!(!zombie(1).is_alive());
}

fn own() -> Pid {
    Pid::new(std::process::id())
}

/// A shell with `variable` as its only environment variable.
fn shell(script: &str, variable: (&str, &str)) -> Process {
    let arguments: [OsString; 3] = ["sh".into(), "-c".into(), script.into()];
    let environment = vec![(variable.0.into(), variable.1.into())];
    let (path, group) = (Path::new("/bin/sh"), Group::Own);
    let (directory, attributes) = (None, &Attributes::capture());
    spawn::program(&Program { path, arguments: &arguments, environment, directory, attributes, group, listeners: &[] })
        .expect("spawns")
}

/// Looks until `look` returns a value: no event tells when a process has a child.
#[track_caller]
fn when<T>(look: impl Fn(&Snapshot) -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(seen) = look(&Snapshot::take().expect("/proc")) {
            return seen;
        }
        assert!(Instant::now() < deadline, "never so");
        std::thread::yield_now();
    }
}

fn only(of: BTreeSet<Pid>) -> Option<Pid> {
    of.first().copied().filter(|_| of.len() == 1)
}

#[test]
fn orphans_that_carry_the_marker_are_members_and_all_that_descends_from_them() {
    match role() {
        // The process adopts orphans, and reaps all its children.
        None => run_again(orphans_that_carry_the_marker_are_members_and_all_that_descends_from_them, "subreaper"),
        Some(_) => in_a_subreaper(),
    }
}

fn in_a_subreaper() {
    become_subreaper().expect("Linux 3.4");
    // A shell that waits for a shell that waits for a sleep; `:` keeps it from exec.
    let deep = "sh -c 'sleep 60; :'; :";
    let root = shell(deep, ("CUTOVER_RUN", "12/3"));
    // This shell ends, and leaves such a tree to be adopted; and the same with another marker, which begins with ours.
    let orphaning = format!("({deep}) & exit 0");
    for other in ["12/3", "12/34"] {
        shell(&orphaning, ("CUTOVER_RUN", other));
        let reaper = Reaper::default();
        when(|_| (reaper.reap() == 1).then_some(()));
    }
    let child_of = |snapshot: &Snapshot, pid| only(snapshot.children_of(pid));
    let tree_of = |snapshot: &Snapshot, top| {
        let middle = child_of(snapshot, top)?;
        let bottom = child_of(snapshot, middle)?;
        (std::fs::read(format!("/proc/{bottom}/comm")).ok()? == b"sleep\n")
            .then_some(BTreeSet::from([top, middle, bottom]))
    };
    let orphans = |snapshot: &Snapshot| {
        let mut ours = snapshot.children_of(own());
        (ours.remove(&root.pid) && ours.len() == 2).then_some(ours)
    };
    let (snapshot, of_root, mut orphaned) = when(|snapshot| {
        let orphaned = orphans(snapshot)?.into_iter().map(|top| tree_of(snapshot, top));
        Some((snapshot.clone(), tree_of(snapshot, root.pid)?, orphaned.collect::<Option<Vec<_>>>()?))
    });
    orphaned.sort_by_key(|tree| !matches!(Lineage::of(*tree.first().expect("three"), MARKER), Lineage::Marked));
    let [marked, other] = <[_; 2]>::try_from(orphaned).expect("two");
    assert_eq!(snapshot.members(root.pid, MARKER), of_root.union(&marked).copied().collect());
    assert_eq!(snapshot.members(root.pid, b"CUTOVER_RUN=1"), of_root);
    assert_eq!(snapshot.members(Pid::new(u32::MAX), b"CUTOVER_RUN=12/34"), other);
    a_dead_root_is_no_member_and_its_orphans_are(&root, &of_root, &marked);
    for pid in of_root.iter().chain(&marked).chain(&other) {
        HeldProcess::hold(*pid).map(|process| process.signal(rustix::process::Signal::KILL));
    }
    let reaper = Reaper::default();
    when(|snapshot| {
        reaper.reap();
        snapshot.children_of(own()).is_empty().then_some(())
    });
}

fn a_dead_root_is_no_member_and_its_orphans_are(root: &Process, of_root: &BTreeSet<Pid>, marked: &BTreeSet<Pid>) {
    root.kill();
    // The root is not reaped yet: it is a zombie, and no living process.
    let snapshot = when(|snapshot| {
        let is_zombie = snapshot.process(root.pid).is_some_and(|stat| !stat.is_alive());
        is_zombie.then(|| snapshot.clone())
    });
    let left: BTreeSet<Pid> = of_root.iter().copied().filter(|pid| *pid != root.pid).collect();
    assert_eq!(snapshot.members(root.pid, MARKER), left.union(marked).copied().collect());
    assert!(snapshot.children_of(own()).contains(&root.pid), "until it is reaped");
}

/// The start of a daemon: the process in the middle lives for less time than a look takes.
#[test]
fn a_grandchild_of_one_that_ends_just_now_is_not_missed() {
    match role() {
        None => run_again(a_grandchild_of_one_that_ends_just_now_is_not_missed, "subreaper"),
        Some(_) => a_grandchild_is_always_seen(),
    }
}

fn a_grandchild_is_always_seen() {
    become_subreaper().expect("Linux 3.4");
    let reaper = Reaper::default();
    for _ in 0..20 {
        let root = shell("(sh -c 'sleep 60; :' & exit 0) & exit 0", ("CUTOVER_RUN", "12/3"));
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            reaper.reap();
            let all = living(root.pid, MARKER, Orphans::ANY).expect("/proc");
            assert!(!all.is_empty(), "there is always one");
            let is_left = |pid: &Pid| std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == b"sleep\n");
            // The shell that waits for a sleep, and the sleep.
            if all.len() == 2 && all.iter().any(is_left) {
                for process in all.iter().filter_map(|pid| HeldProcess::hold(*pid)) {
                    process.signal(rustix::process::Signal::KILL);
                }
                break;
            }
            assert!(Instant::now() < deadline, "never so: {all:?}");
        }
        when(|snapshot| {
            reaper.reap();
            snapshot.children_of(own()).is_empty().then_some(())
        });
    }
}

#[test]
fn only_what_is_a_member_after_it_was_held_is_signalled() {
    let mut children = [(); 3].map(|()| std::process::Command::new("sleep").arg("1000").spawn().expect("spawn sleep"));
    let pids: BTreeSet<Pid> = children.iter().map(|child| Pid::new(child.id())).collect();
    assert_eq!(hold(pids.clone(), || pids.clone()).len(), 3);
    assert_eq!(hold(pids.clone(), BTreeSet::new).len(), 0);
    // The first child has left the tree, and the second has ended: both pids may belong to other processes by now.
    let still: BTreeSet<Pid> = pids.iter().copied().filter(|pid| pid.number() != children[0].id()).collect();
    children[1].kill().expect("our own child");
    let second = HeldProcess::hold(Pid::new(children[1].id())).expect("nobody reaps it");
    let deadline = Instant::now() + Duration::from_secs(20);
    while second.is_alive() {
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::yield_now();
    }
    let held = hold(pids, || still.clone());
    assert_eq!(held.len(), 1);
    held[0].signal(Signal::KILL);
    assert!(!children[2].wait().expect("our own child").success());
    for child in &mut children[..2] {
        child.kill().and_then(|()| child.wait()).expect("our own child");
    }
}

/// A look at the environment may hang, so only orphans are looked at: a child that is reaped or spawned during the look
/// is no orphan.
#[test]
fn a_child_that_was_spawned_before_or_after_the_list_is_no_orphan() {
    let child = shell("exec sleep 1000", ("CUTOVER_RUN", "12/4"));
    let all = Spawned { pids: BTreeSet::from([child.pid]), under_way: false };
    for known_at in [0, 1] {
        let calls = Cell::new(0);
        let spawned = || if calls.replace(calls.get() + 1) % 2 == known_at { all.clone() } else { Spawned::default() };
        let orphans = Orphans { spawned: &spawned, wiped_since: None };
        assert_eq!(living(nobody(), b"CUTOVER_RUN=12/4", orphans).expect("/proc"), BTreeSet::new());
        assert!(calls.get() > 1);
    }
    end(&child);
}

/// The look is repeated until the spawn is done; a spawn that hangs is not waited for.
#[test]
fn while_a_child_is_spawned_it_is_taken_for_no_orphan() {
    let orphan = shell("exec sleep 1000", ("CUTOVER_RUN", "12/5"));
    for done_after in [0, 3, usize::MAX] {
        let calls = Cell::new(0);
        let spawned = || {
            let under_way = calls.replace(calls.get() + 1) < done_after;
            Spawned { pids: BTreeSet::new(), under_way }
        };
        let orphans = Orphans { spawned: &spawned, wiped_since: None };
        let found = living(nobody(), b"CUTOVER_RUN=12/5", orphans).expect("/proc");
        assert!(found.contains(&orphan.pid), "{found:?}");
        assert!(calls.get() >= done_after.min(2 * LOOKS), "{}", calls.get());
    }
    end(&orphan);
}

fn nobody() -> Pid {
    Pid::new(u32::MAX)
}

fn end(child: &Process) {
    child.kill();
    while child.reap().expect("a child").is_none() {
        std::thread::yield_now();
    }
}
