//! A server that was started as the foreground job of a terminal: after a reload the shell has the terminal back, and the
//! log says so.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cutover::control::Status;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::support::group::pid_of;
use crate::support::kept_alive;
use crate::support::process::Start;
use crate::support::programs::Port;
use crate::support::terminal::{Shown, Terminal};
use crate::support::verb::Verb;

const SOON: Duration = Duration::from_secs(10);
const CUTOVER: &str = env!("CARGO_BIN_EXE_cutover");
const TOLD: &str = "this process was the foreground job of a terminal";
/// Without line editing the kernel echoes the input.
const BASH: &[&str] = &["bash", "--noediting", "--norc", "-i"];
/// The end of the message.
const RUN: &str = "`cutover run` keeps a server in the foreground";

/// An interactive shell on a terminal of its own, and the server that a person starts there.
struct Shell {
    terminal: Terminal,
    place: Place,
}

/// The folder of the control socket and of the PID file. The server may outlive the shell, but not this value.
struct Place(TempDir);

impl Place {
    fn pid_file(&self) -> PathBuf {
        self.0.path().join("server.pid")
    }

    /// The PID in the PID file, which the server removes at its end.
    fn pid(&self) -> Option<u32> {
        std::fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid_of(pid), Signal::TERM);
        }
    }
}

impl Shell {
    fn start(words: &[&str]) -> Shell {
        let place = Place(tempfile::tempdir().expect("a folder"));
        let verb = Verb::by(words[0], words[1])
            .args(&words[2..])
            .within(place.0.path())
            .env("PS1", "prompt> ")
            .env("ENV", "")
            .env("HOME", "/nowhere");
        // Wide enough for the longest line.
        let shell = Shell { terminal: Terminal::run(verb, 400, 60), place };
        shell.terminal.wait_text("prompt>");
        shell
    }

    fn types(&self, line: &str) {
        self.terminal.types(format!("{line}\n").as_bytes());
    }

    /// Types the command of the server, and waits until the server is live.
    fn serves(&self, options: &str) {
        let file = self.place.pid_file();
        self.types(&format!("{CUTOVER} serve --listen 127.0.0.1:0 --name it --pid-file {} {options}", file.display()));
        self.terminal.wait_text(" live generation=1 ");
    }

    fn verb(&self, verb: &str) -> Verb {
        Verb::new(verb).within(self.place.0.path()).args(["--name", "it"])
    }

    fn status(&self) -> Status {
        let json = self.verb("status").args(["--json"]).run().with(0).out;
        serde_json::from_str(&json).expect("a status")
    }

    /// The process of the only generation.
    fn live(&self) -> u32 {
        match &self.status().generations[..] {
            [live] => live.pid.number(),
            all => panic!("not one: {all:?}"),
        }
    }

    /// Asserts that the shell, and not the server, is in the foreground.
    fn has_its_prompt(&self, number: u32) {
        self.types(&format!("echo $(({number}*2))"));
        // The answer follows the prompt on the same line, if the input was echoed before the prompt was shown.
        let answers = ["", "prompt> "].map(|before| format!("{before}{}", number * 2));
        self.terminal.wait("the shell's answer", |picture| picture.iter().any(|line| answers.contains(line)));
    }

    /// Asserts that Ctrl-C reaches the shell, and ends no process.
    fn is_interrupted(&self) {
        self.terminal.types(b"\x03");
        self.terminal.wait("another prompt", |picture| {
            picture.iter().any(|line| line == "prompt> ^C") && picture.last().is_some_and(|line| line == "prompt>")
        });
    }

    fn end(self) -> Shown {
        self.types("exit 7");
        let shown = self.terminal.end();
        assert_eq!(shown.code, Some(7), "{:#?}", shown.last());
        shown
    }
}

fn count(shown: &Shown, text: &str) -> usize {
    shown.last().iter().filter(|line| line.contains(text)).count()
}

fn the_shell_has_its_prompt_back(words: &[&str]) {
    let shell = Shell::start(words);
    shell.serves("");
    let first = shell.live();
    shell.verb("reload").args(["--drain"]).run().with(0);
    let pid = shell.live();
    assert_ne!(pid, first);
    shell.terminal.wait_text(&format!("does not reach generation 2 (pid {pid}); stop that one by `kill {pid}` or "));
    shell.terminal.wait_text(&format!("`cutover stop --name it`; {RUN}"));
    shell.has_its_prompt(21);
    shell.is_interrupted();
    assert_eq!(shell.live(), pid);
    // Later generations are no job of the shell: nothing changes for the shell.
    shell.verb("reload").args(["--drain"]).run().with(0);
    shell.terminal.wait_text(" gone generation=2 ");
    // The command that the message names works.
    shell.verb("stop").run().with(0);
    shell.verb("status").run().with(69);
    let shown = shell.end();
    assert_eq!(count(&shown, TOLD), 1, "{:#?}", shown.last());
}

#[test]
fn bash_has_its_prompt_back() {
    the_shell_has_its_prompt_back(BASH);
}

#[test]
fn dash_has_its_prompt_back() {
    if std::process::Command::new("dash").args(["-c", ":"]).status().is_err() {
        return crate::support::skip("there is no dash");
    }
    the_shell_has_its_prompt_back(&["dash", "-i"]);
}

/// The script's process group is in the foreground as long as the script runs, and later generations belong to that
/// group.
#[test]
fn a_script_that_goes_on_is_told_once() {
    let script = "echo 'prompt>'; read -r command; eval \"$command\"; read -r rest; exit 7";
    let shell = Shell::start(&["sh", "-c", script]);
    shell.serves("");
    for gone in ["gone generation=1 ", "gone generation=2 "] {
        shell.verb("reload").args(["--drain"]).run().with(0);
        shell.terminal.wait_text(gone);
    }
    shell.verb("stop").run().with(0);
    let shown = shell.end();
    assert_eq!(count(&shown, TOLD), 1, "{:#?}", shown.last());
}

/// Another generation has become live while the first one drains.
#[test]
fn the_live_generation_is_named_whichever_it_is() {
    let shell = Shell::start(BASH);
    shell.serves("--idle-grace 1h");
    let held = kept_alive(shell.status().addresses[0]);
    shell.verb("reload").run().with(0);
    shell.verb("reload").args(["--drain"]).run().with(0);
    let generations = shell.status().generations;
    assert_eq!(generations.iter().map(|g| g.generation.number()).collect::<Vec<_>>(), [3, 1]);
    let pid = generations[0].pid;
    drop(held);
    shell.terminal.wait_text(&format!("does not reach the live generation (pid {pid}); stop that one by `kill {pid}`"));
    shell.verb("stop").run().with(0);
    shell.end();
}

/// Without a control socket the message names `kill` only.
#[test]
fn a_server_that_cannot_be_asked_is_ended_by_its_pid() {
    let shell = Shell::start(BASH);
    shell.serves("--no-control");
    let (file, root) = (shell.place.pid_file(), Path::new(CUTOVER).parent().expect("a folder"));
    Verb::new("reload").arg("--pid-file").arg(&file).arg("--root").arg(root).run().with(0);
    let pid = shell.place.pid().expect("it is there");
    shell.terminal.wait_text(&format!("generation 2 (pid {pid}); stop that one by `kill {pid}`; {RUN}"));
    shell.types(&format!("kill {pid}"));
    shell.terminal.wait_text(" gone generation=2 ");
    shell.end();
}

/// `cutover run` is the way to keep a server in the foreground.
#[test]
fn cutover_run_keeps_it_in_the_foreground() {
    let shell = Shell::start(BASH);
    let (port, file) = (Port::free(), shell.place.pid_file());
    let program = format!("{CUTOVER} serve --listen {} --no-control", port.address);
    shell.types(&format!("{CUTOVER} run --name it --pid-file {} -- {program}; echo ended $?", file.display()));
    shell.terminal.wait_text(" live generation=1 ");
    shell.verb("reload").args(["--drain"]).run().with(0);
    shell.terminal.types(b"\x03");
    shell.terminal.wait("its end", |picture| picture.iter().any(|line| line.starts_with("ended ")));
    shell.verb("status").run().with(69);
    let shown = shell.end();
    assert_eq!(count(&shown, TOLD), 0, "{:#?}", shown.last());
}

#[test]
fn where_stdin_is_no_terminal_nothing_is_told() {
    let server = Start::serve().ready();
    server.reload();
    server.wait_gone(server.first_pid(), SOON);
    server.wait_log(" gone generation=1 ", SOON);
    assert!(!server.log_contains(TOLD), "{}", server.log());
    // A background job gets no message either: its shell keeps the terminal.
    let shell = Shell::start(BASH);
    shell.serves("&");
    shell.verb("reload").args(["--drain"]).run().with(0);
    shell.verb("stop").run().with(0);
    let shown = shell.end();
    assert_eq!((count(&shown, " gone generation=1 "), count(&shown, TOLD)), (1, 0), "{:#?}", shown.last());
}

/// A stop needs no message: no generation serves on.
#[test]
fn a_stop_tells_nothing() {
    let shell = Shell::start(BASH);
    shell.serves("");
    shell.terminal.types(b"\x03");
    shell.terminal.wait_text(" gone generation=1 ");
    shell.has_its_prompt(21);
    let shown = shell.end();
    assert_eq!(count(&shown, TOLD), 0, "{:#?}", shown.last());
}
