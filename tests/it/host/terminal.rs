//! Output on a terminal: one line for the current step, one table that is redrawn in place, and the lines that remain.

use std::fs;
use std::time::Duration;

use cutover::Phase;
use rustix::process::Signal;

use crate::support::deployed::{Deployed, GREEN};
use crate::support::kept_alive;
use crate::support::process::{Instance, Start};
use crate::support::status::{is_serving, status, wait_phase};
use crate::support::terminal::{Shown, Terminal, without_spinner};
use crate::support::verb::Verb;

const SOON: Duration = Duration::from_secs(10);
/// The number of SIGINT.
const INTERRUPTED: Option<i32> = Some(2);

fn reload(server: &Instance, options: &[&str]) -> Terminal {
    Terminal::run(Verb::of("reload", server).args(options), 80, 24)
}

fn wait_line(terminal: &Terminal, wanted: &str) {
    terminal.wait(&format!("the line `{wanted}`"), |picture| {
        picture.first().is_some_and(|line| without_spinner(line) == wanted)
    });
}

/// Asserts that a line that changes, which begins with a spinner, is the only line.
fn is_one_line(shown: &Shown) {
    let pictures = &shown.pictures;
    let moving = pictures.iter().filter(|picture| picture.first().is_some_and(|line| *line != without_spinner(line)));
    for picture in moving {
        assert_eq!(picture.len(), 1, "{picture:#?} of {pictures:#?}");
    }
    assert_eq!(shown.scrolled, 0, "{pictures:#?}");
}

/// Asserts that these lines come in this order, with any others between them.
fn in_order(lines: &[String], wanted: &[&str]) {
    let mut rest = lines.iter();
    for wanted in wanted {
        assert!(rest.any(|line| line == wanted), "`{wanted}` is not where it belongs in {lines:#?}");
    }
}

#[test]
fn a_reload_is_one_line_that_changes_and_one_that_stays() {
    let deployed = Deployed::new();
    let server = deployed.start("slow").args(["--probe", "/", "--canary", "5%:2s,50%:1s", "--soak", "2s"]).ready();
    deployed.put(GREEN);
    let terminal = reload(&server, &[]);
    wait_line(&terminal, "starting generation 2");
    wait_line(&terminal, "starting generation 2 for 1 s");
    fs::write(deployed.out(), "go on").expect("green may go on");
    let shown = terminal.end();
    assert_eq!(shown.code, Some(0), "{shown:#?}");
    in_order(
        &shown.first_lines(),
        &[
            "starting generation 2",
            "starting generation 2 for 1 s",
            "canary 5 % for 2 s more",
            "canary 5 % for 1 s more",
            "canary 50 % for 1 s more",
            "soaking for 2 s more",
            "soaking for 1 s more",
        ],
    );
    is_one_line(&shown);
    let pid = is_serving(&status(&server), 2);
    let [last] = shown.last() else { panic!("{shown:#?}") };
    assert!(last.starts_with(&format!("generation 2 is live (pid {pid}) after ")), "{last}");
}

#[test]
fn a_reload_that_fails_leaves_the_reason() {
    let place = tempfile::tempdir().expect("a folder");
    let server = Start::serve().arg(place.path()).args(["--probe", "/missing", "--probe-timeout", "1500ms"]).ready();
    let shown = reload(&server, &[]).end();
    assert_eq!(shown.code, Some(75), "{shown:#?}");
    in_order(&shown.first_lines(), &["probing", "probing for 1 s"]);
    is_one_line(&shown);
    // The line may be longer than the terminal is wide.
    let last = shown.last().concat();
    assert!(last.starts_with("reload failed: generation 2 ") && last.contains("404"), "{shown:#?}");
    assert!(last.ends_with("; generation 1 serves on"), "{shown:#?}");
}

#[test]
fn a_drain_is_counted_down() {
    let server = Start::serve().args(["--idle-grace", "1h", "--drain-timeout", "1h"]).ready();
    let mut held: Vec<_> = (0..3).map(|_| kept_alive(server.addr())).collect();
    let terminal = reload(&server, &["--drain"]);
    for left in ["draining 3 connections", "draining 2 connections", "draining 1 connection"] {
        terminal.wait_text(left);
        held.pop();
    }
    let shown = terminal.end();
    assert_eq!((shown.code, shown.scrolled), (Some(0), 0), "{shown:#?}");
    let [live, gone] = shown.last() else { panic!("{shown:#?}") };
    assert!(live.starts_with("generation 2 is live (pid "), "{live}");
    assert_eq!(*gone, format!("the old process (pid {}) is gone", server.first_pid()));
    let tall = shown.pictures.iter().find(|picture| picture.len() > 2);
    assert_eq!(tall, None, "one line that stays, and one that changes");
}

/// The line is cut at the width of the terminal, and stays one line.
#[test]
fn a_narrow_terminal_has_one_line_too() {
    let server = Start::serve().args(["--canary", "5%:1s"]).ready();
    let shown = Terminal::run(Verb::of("reload", &server), 16, 4).end();
    assert_eq!(shown.code, Some(0), "{shown:#?}");
    assert!(shown.first_lines().iter().any(|line| line.starts_with("canary 5 %")), "{shown:#?}");
    is_one_line(&shown);
}

#[test]
fn ctrl_c_ends_the_verb_and_not_the_reload() {
    let deployed = Deployed::new();
    let server = deployed.start("slow").args(["--canary", "5%:1h"]).ready();
    deployed.put(GREEN);
    let terminal = reload(&server, &[]);
    server.wait_log(" spawned generation=2 ", SOON);
    terminal.wait_text("starting generation 2");
    terminal.types(b"\x03");
    let shown = terminal.end();
    assert_eq!((shown.code, shown.signal), (None, INTERRUPTED), "{shown:#?}");
    assert_eq!(wait_phase(&server, Phase::Starting).generations.len(), 2);
    fs::write(deployed.out(), "go on").expect("green may go on");
    wait_phase(&server, Phase::Canary);
    Verb::of("promote", &server).run().with(0);
    server.wait_log("reload done: generation 2 is live", SOON);
}

fn watch(server: &Instance, columns: u16, rows: u16) -> Terminal {
    Terminal::run(Verb::of("status", server).args(["--watch", "100ms"]), columns, rows)
}

/// The generation and the phase of each row.
fn generations(picture: &[String]) -> Vec<(String, String)> {
    let rows = picture.iter().skip_while(|line| !line.starts_with("GENERATION")).skip(1);
    let cells = rows.map(|row| row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>());
    // An error may follow the table.
    cells.filter(|cells| cells.len() > 3).map(|cells| (cells[0].to_owned(), cells[3].to_owned())).collect()
}

fn wait_generations(terminal: &Terminal, wanted: &[(&str, &str)]) {
    let wanted: Vec<_> = wanted.iter().map(|(number, phase)| (number.to_string(), phase.to_string())).collect();
    terminal.wait(&format!("{wanted:?}"), |picture| generations(picture) == wanted);
}

#[test]
fn a_watched_status_is_one_table_that_is_always_new() {
    let server = Start::serve().args(["--idle-grace", "1h", "--drain-timeout", "1h"]).ready();
    let held = kept_alive(server.addr());
    let terminal = watch(&server, 80, 24);
    wait_generations(&terminal, &[("1", "serving")]);
    server.reload();
    wait_generations(&terminal, &[("2", "serving"), ("1", "draining")]);
    drop(held);
    server.wait_gone(server.first_pid(), SOON);
    // The row of the first generation disappears.
    wait_generations(&terminal, &[("2", "serving")]);
    server.signal(server.main_pid(), Signal::KILL);
    let shown = terminal.end();
    assert_eq!((shown.code, shown.scrolled), (Some(69), 0), "{shown:#?}");
    for picture in &shown.pictures {
        let tables = picture.iter().filter(|line| line.starts_with("GENERATION")).count();
        assert!(tables <= 1 && picture.len() <= 11, "{picture:#?}");
    }
    let last = shown.last();
    assert_eq!(last.iter().filter(|line| line.starts_with("cutover ")).count(), 1, "{last:#?}");
    assert_eq!(generations(last), [("2".to_owned(), "serving".to_owned())], "{last:#?}");
    // The message is long and takes two lines.
    assert!(last.iter().any(|line| line.starts_with("no instance runs at ")), "{last:#?}");
}

/// Rows and columns that do not fit are cut off: otherwise each table would scroll the previous one up.
#[test]
fn a_watched_status_on_a_small_terminal_does_not_scroll() {
    let server = Start::serve().ready();
    let terminal = watch(&server, 30, 6);
    terminal.wait_text("steering     steered");
    // The table is redrawn with the reload.
    server.reload();
    terminal.wait_text("last reload  generation 2 liv");
    terminal.types(b"\x03");
    let shown = terminal.end();
    assert_eq!((shown.signal, shown.scrolled), (INTERRUPTED, 0), "{shown:#?}");
    assert!(shown.pictures.iter().all(|picture| picture.len() <= 6), "{shown:#?}");
}

#[test]
fn a_watched_status_in_a_pipe_is_table_after_table() {
    let server = Start::serve().ready();
    let watch = Verb::of("status", &server).args(["--watch", "50ms"]).begin();
    watch.wait_out("\n\ncutover ");
    server.reload();
    watch.wait_out("\n2  ");
    server.signal(server.main_pid(), Signal::KILL);
    let ended = watch.end().with(69);
    assert!(!ended.out.contains('\x1b'), "{ended:?}");
    let tables: Vec<&str> = ended.out.split("\n\ncutover ").collect();
    assert!(tables.len() > 2, "{ended:?}");
    for table in tables {
        assert_eq!(table.matches("GENERATION  PID").count(), 1, "{ended:?}");
    }
}
