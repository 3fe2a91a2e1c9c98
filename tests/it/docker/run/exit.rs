//! The exit code of the container is the program's; and where there is none, what engines and shells say then.

use std::time::Duration;

use super::{SOON, run_serve};
use crate::support::docker::Engine;

/// A program that did begin, whatever it does then.
#[test]
fn the_exit_code_is_the_programs() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.perl() else { return };
    for (script, code) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -KILL $$", 137),
        ("kill -SEGV $$", 139),
        // What it has left behind does not change it.
        ("sleep 1000 & exit 5", 5),
    ] {
        let container = engine.run(&[], image, &["run", "--", "sh", "-c", script]);
        assert_eq!(container.wait(SOON), code, "{script}: {}", container.logs());
    }
}

#[test]
fn what_cannot_begin_has_the_code_of_a_shell() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.cutover() else { return };
    for (words, code) in [
        (&["run", "--", "/no/such/program"][..], 127),
        (&["run", "--", "no-such-program"], 127),
        // Docker puts it there, and it is no program.
        (&["run", "--", "/etc/hosts"], 126),
        (&["run", "--"], 64),
        (&["run", "--stop-signal", "NONE", "--", "/cutover"], 64),
    ] {
        let container = engine.run(&[], image, words);
        assert_eq!(container.wait(SOON), code, "{words:?}: {}", container.logs());
    }
}

/// Killed from outside, in the container: by number 2 it is the live generation, whose end is the end of all.
#[test]
fn a_killed_program_ends_the_container() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.perl() else { return };
    let container = engine.run(&[], image, &["run", "--listen", "0.0.0.0:8080", "--", "/server.pl", "8080"]);
    container.wait_log(" live generation=1 ", SOON);
    let processes = container.processes();
    let names: Vec<_> = processes.iter().map(|process| (process.name.as_str(), process.parent)).collect();
    assert_eq!(names, [("cutover", 0), ("server.pl", 1)]);
    let kill = format!("kill -KILL {}", processes[1].pid);
    container.exec(&["sh", "-c", &kill]);
    assert_eq!(container.wait(SOON), 137, "{}", container.logs());
}

/// A program that does not end when it is told to is killed by the supervisor, before Docker would kill both.
#[test]
fn a_deaf_program_is_killed_in_time() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.perl() else { return };
    let words = ["run", "--stop-timeout", "2s", "--", "sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"];
    let container = engine.run(&["--stop-timeout", "20"], image, &words);
    container.wait_log("deaf", SOON);
    let (took, code) = container.stop();
    assert_eq!(code, 137, "{}", container.logs());
    assert!((2..20).contains(&took.as_secs()), "{took:?}: {}", container.logs());
    assert!(container.logs().contains("has not ended in its time, killing it"), "{}", container.logs());
}

/// `docker kill` by the signals that end a program.
#[test]
fn each_signal_to_stop_stops_it() {
    let Some(engine) = Engine::running() else { return };
    for signal in ["TERM", "INT"] {
        let Some(container) = run_serve(engine, &[], &[]) else { return };
        container.kill(signal);
        assert_eq!(container.wait(Duration::from_secs(10)), 0, "{signal}: {}", container.logs());
    }
}
