use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::attributes::Attributes;
use super::super::process::HeldProcess;
use super::super::process_tree::Snapshot;
use super::super::reexec::{role, run_again};
use super::super::spawn::{self, Group, Program};
use super::*;

/// More than enough for a child that ends at once.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn an_end_has_a_code_and_words() {
    let killed = Ended::Killed { signal: 9 };
    assert_eq!((Ended::Exited(3).code(), killed.code()), (3, 137));
    assert_eq!(Ended::Exited(3).to_string(), "exited with status 3");
    assert_eq!(killed.to_string(), "was killed by SIGKILL (9)");
}

#[test]
fn every_end_is_told_and_orphans_are_reaped_too() {
    if role().is_none() {
        // The test reaps children that it has not spawned, so it must not run in the process of all tests.
        return run_again(every_end_is_told_and_orphans_are_reaped_too, "subreaper");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let reaper = Reaper::default();
        assert_eq!(reaper.reap(), 0, "there is no child");
        ends_are_told(&reaper).await;
        what_cannot_begin_is_not_waited_for(&reaper);
        an_orphan_is_reaped(&reaper).await;
        no_end_is_missed(&reaper).await;
    });
}

fn sh(script: &str) -> io::Result<Process> {
    let arguments: [OsString; 3] = ["sh".into(), "-c".into(), script.into()];
    let (path, group) = (Path::new("/bin/sh"), Group::Own);
    let (environment, attributes) = (Vec::new(), &Attributes::capture());
    spawn::program(&Program {
        path,
        arguments: &arguments,
        environment,
        directory: None,
        attributes,
        group,
        listeners: &[],
    })
}

async fn ends_are_told(reaper: &Reaper) {
    let (exits, mut exited) = reaper.spawn(|| sh("exit 3")).expect("spawns");
    let (sleeps, mut killed) = reaper.spawn(|| sh("exec sleep 60")).expect("spawns");
    exits.gone().await;
    assert!(exited.try_recv().is_err(), "nobody has reaped it");
    assert_eq!(reaper.reap(), 1);
    assert_eq!(exited.try_recv(), Ok(Ended::Exited(3)));
    assert!(killed.try_recv().is_err(), "it runs");
    assert_eq!(reaper.reap(), 0, "it runs");
    sleeps.kill();
    sleeps.gone().await;
    assert_eq!(reaper.clone().reap(), 1, "a clone is the same one");
    assert_eq!(killed.await, Ok(Ended::Killed { signal: 9 }));
    // The end of this child has no receiver.
    let (unasked, end) = reaper.spawn(|| sh("exit 0")).expect("spawns");
    drop(end);
    unasked.gone().await;
    assert_eq!(reaper.reap(), 1);
    assert!(reaper.asked().is_empty());
}

fn what_cannot_begin_is_not_waited_for(reaper: &Reaper) {
    let path = Path::new("/no/such/program");
    let (environment, attributes) = (Vec::new(), &Attributes::capture());
    let program =
        Program { path, arguments: &[], environment, directory: None, attributes, group: Group::Ours, listeners: &[] };
    let error = reaper.spawn(|| spawn::program(&program)).expect_err("there is none");
    assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
    assert_eq!(reaper.reap(), 0, "the spawn has waited for it");
    assert!(reaper.asked().is_empty());
}

async fn an_orphan_is_reaped(reaper: &Reaper) {
    become_subreaper().expect("Linux 3.4");
    let (parent, end) = reaper.spawn(|| sh("sleep 60 & exit 7")).expect("spawns");
    parent.gone().await;
    assert_eq!(reaper.reap(), 1);
    assert_eq!(end.await.map(Ended::code), Ok(7));
    let children = Snapshot::take().expect("/proc").children_of(Pid::new(std::process::id()));
    assert_eq!(children.len(), 1, "adopted: {children:?}");
    let orphan = HeldProcess::hold(*children.first().expect("one")).expect("alive");
    assert!(orphan.signal(rustix::process::Signal::KILL));
    orphan.gone().await;
    assert_eq!(reaper.reap(), 1);
}

/// Another thread reaps without a pause meanwhile, as a SIGCHLD may come at any time.
async fn no_end_is_missed(reaper: &Reaper) {
    let (again, over) = (reaper.clone(), std::sync::Arc::new(AtomicBool::new(false)));
    let until = over.clone();
    let thread = std::thread::spawn(move || {
        while !until.load(Ordering::Relaxed) {
            again.reap();
            std::thread::yield_now();
        }
    });
    for _ in 0..100 {
        let (_process, end) = reaper.spawn(|| sh("exit 5")).expect("spawns");
        let told = tokio::time::timeout(PATIENCE, end).await.expect("told in time");
        assert_eq!(told, Ok(Ended::Exited(5)));
        assert!(reaper.spawn(|| Err(io::Error::from(io::ErrorKind::NotFound))).is_err());
    }
    over.store(true, Ordering::Relaxed);
    thread.join().expect("does not panic");
}
