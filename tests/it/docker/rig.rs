//! The rig itself: its view of a container is correct.

use std::time::Duration;

use super::{SOON, run_serve};
use crate::support::docker::Engine;
use crate::support::load::{Mode, Plan};

#[test]
fn sees_zombies_and_orphans() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.debian() else { return };
    // Process 1 waits for no child: the child becomes a zombie, and the grandchild an orphan.
    let program = "$| = 1; if (!fork) { if (!fork) { sleep } exit } print qq(begun\\n); sleep";
    let container = engine.run(&[], image, &["perl", "-e", program]);
    container.wait_log("begun", SOON);
    engine.wait("a zombie and an orphan", SOON, || {
        let processes = container.processes();
        let zombies = container.zombies();
        let orphan = processes.iter().find(|process| process.pid != 1 && process.state != 'Z');
        let is_seen = zombies.len() == 1 && zombies[0].parent == 1;
        is_seen && processes.len() == 3 && orphan.is_some_and(|it| it.parent == 1 && it.name == "perl")
    });
    assert!(container.resident_bytes() > 0);
    // SIGTERM does not end a process 1 that has no handler, so the signal is SIGKILL.
    container.kill("KILL");
    assert_eq!(container.wait(SOON), 137);
    assert_eq!(container.processes(), []);
}

#[test]
fn sends_signals_and_has_the_exit_code() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.debian() else { return };
    let script = "trap 'echo told' HUP; trap 'exit 7' TERM; echo ready; while :; do sleep 1000 & wait $!; done";
    let container = engine.run(&["--stop-timeout", "20"], image, &["sh", "-c", script]);
    container.wait_log("ready", SOON);
    for _ in 0..2 {
        let mark = container.mark();
        container.kill("HUP");
        container.wait_log_after(mark, "told", SOON);
    }
    let (took, code) = container.stop();
    assert_eq!(code, 7);
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(container.logs(), "ready\ntold\ntold\n");
}

#[test]
fn loads_what_is_published() {
    let Some(engine) = Engine::running() else { return };
    let Some(container) = run_serve(engine, &["--publish", "8080"]) else { return };
    for mode in [Mode::Close, Mode::KeepAlive] {
        let plan = Plan { pause: Duration::from_millis(2), ..Plan::new([container.published(8080)], 8, mode) };
        let load = engine.load(plan);
        load.wait_answered(100, SOON);
        let report = load.stop();
        report.assert_nothing_lost();
        assert_eq!(report.pids.into_iter().collect::<Vec<_>>(), [1]);
    }
}
