//! The exit code of the container is the program's; where there is none, the code is the one that engines and shells
//! use.

use std::time::Duration;

use super::{SOON, run_serve};
use crate::support::docker::Engine;

/// Exit codes of a program that was started, however the program ends.
#[test]
fn the_exit_code_is_the_programs() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.perl() else { return };
    for (script, code) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -KILL $$", 137),
        ("kill -SEGV $$", 139),
        // A process that the program leaves behind does not change the code.
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
        // Docker creates this file, which is no program.
        (&["run", "--", "/etc/hosts"], 126),
        (&["run", "--"], 64),
        (&["run", "--stop-signal", "NONE", "--", "/cutover"], 64),
    ] {
        let container = engine.run(&[], image, words);
        assert_eq!(container.wait(SOON), code, "{words:?}: {}", container.logs());
    }
}

/// The live generation, killed from within the container: its end ends the container.
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

/// The supervisor kills a program that ignores SIGTERM, before Docker would kill both.
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

/// The signals of `docker kill` that stop a server.
#[test]
fn each_signal_to_stop_stops_it() {
    let Some(engine) = Engine::running() else { return };
    for signal in ["TERM", "INT"] {
        let Some(container) = run_serve(engine, &[], &[]) else { return };
        container.kill(signal);
        assert_eq!(container.wait(Duration::from_secs(10)), 0, "{signal}: {}", container.logs());
    }
}
