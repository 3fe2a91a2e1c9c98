//! `cutover run` on a terminal: the program has the keyboard and Ctrl-C, as if a shell had started it.

use crate::support::terminal::{Shown, Terminal};
use crate::support::verb::Verb;

const CUTOVER: &str = env!("CARGO_BIN_EXE_cutover");

fn run(words: &[&str]) -> Terminal {
    let folder = std::env::temp_dir();
    Terminal::run(Verb::new("run").within(&folder).args(["--no-control", "--"]).args(words), 100, 30)
}

#[track_caller]
fn ends_with(terminal: Terminal, code: i32) -> Shown {
    let shown = terminal.end();
    assert_eq!((shown.code, shown.signal), (Some(code), None), "{:#?}", shown.last());
    shown
}

fn has(line: &'static str) -> impl Fn(&[String]) -> bool {
    move |picture| picture.iter().any(|shown| shown == line)
}

#[test]
fn what_is_typed_goes_to_the_program() {
    let terminal = run(&["sh", "-c", "read word; echo \"<$word>\"; read word; exit 5"]);
    terminal.types(b"a word\n");
    terminal.wait("its answer", has("<a word>"));
    terminal.types(b"\n");
    ends_with(terminal, 5);
}

#[test]
fn a_shell_with_jobs_of_its_own() {
    let terminal = run(&["sh", "-i"]);
    terminal.types(b"echo $((6*7))\n");
    // The answer follows a prompt, or comes below a prompt that is followed by log text.
    terminal.wait("its answer", |picture| picture.iter().any(|line| line.ends_with("42")));
    // The job runs in a process group of its own.
    terminal.types(b"sh -c 'read word; echo \"<$word>\"'\n");
    terminal.types(b"more\n");
    // The answer follows the prompt on the same line, if the input was echoed before the prompt was shown.
    terminal.wait("the answer of a job", |picture| picture.iter().any(|line| line.ends_with("<more>")));
    terminal.types(b"exit 3\n");
    ends_with(terminal, 3);
}

#[test]
fn the_end_of_what_is_typed() {
    let terminal = run(&["cat"]);
    terminal.types(b"\x04");
    ends_with(terminal, 0);
}

#[test]
fn an_interrupt_goes_to_the_program_and_ends_it() {
    let terminal = run(&["sh", "-c", "echo begun; exec cat"]);
    terminal.wait("that it has begun", has("begun"));
    terminal.types(b"\x03");
    ends_with(terminal, 128 + 2);
    let terminal = run(&["sh", "-c", "trap 'echo caught; exit 9' INT; echo begun; while :; do read word; done"]);
    terminal.wait("that it has begun", has("begun"));
    terminal.types(b"\x03");
    terminal.wait_text("caught");
    ends_with(terminal, 9);
}

/// A shell that runs the supervisor, and reads a line after its end.
fn in_a_shell(words: &str) -> Terminal {
    let script = format!("{CUTOVER} run --no-control {words}; echo ended $?; read word; echo \"<$word>\"");
    Terminal::run(Verb::by("sh", "-c").args([script]), 100, 30)
}

fn the_shell_goes_on(terminal: Terminal, after: &'static str) {
    terminal.wait("its end", has(after));
    terminal.types(b"for the shell\n");
    terminal.wait("the shell's answer", has("<for the shell>"));
    ends_with(terminal, 0);
}

/// The shell that has started the supervisor can read again.
#[test]
fn the_shell_has_the_terminal_back() {
    let terminal = in_a_shell("-- sh -c 'echo begun; exec cat'");
    terminal.wait("that it has begun", has("begun"));
    terminal.types(b"\x04");
    the_shell_goes_on(terminal, "ended 0");
}

/// The same for a program that could not even begin.
#[test]
fn the_shell_has_the_terminal_back_from_one_that_was_not_ready() {
    the_shell_goes_on(in_a_shell("--ready notify -- sh -c 'exit 4'"), "ended 4");
}

/// The terminal belongs to the live generation.
#[test]
fn the_next_generation_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = "echo begun $$; while read word; do echo \"<$$ $word>\"; done";
    let verb =
        Verb::new("run").within(folder.path()).args(["--name", "it", "--linger", "0s", "--", "sh", "-c", script]);
    let terminal = Terminal::run(verb, 120, 40);
    let pid = |generation: usize| {
        let found = std::cell::Cell::new(None);
        terminal.wait("that it has begun", |picture| {
            let begun = picture.iter().filter_map(|line| line.strip_prefix("begun ")).nth(generation - 1);
            found.set(begun.and_then(|pid| pid.parse::<u32>().ok()));
            found.get().is_some()
        });
        found.get().expect("just seen")
    };
    let answers = |pid: u32, word: &str| {
        terminal.types(format!("{word}\n").as_bytes());
        let answer = format!("<{pid} {word}>");
        terminal.wait(&answer, |picture| picture.contains(&answer));
    };
    answers(pid(1), "one");
    Verb::new("reload").within(folder.path()).args(["--name", "it"]).run().with(0);
    // A process that is in read(2) already gets the next line, whichever process has the terminal then.
    terminal.wait_text(" gone generation=1 ");
    answers(pid(2), "two");
    terminal.types(b"\x04");
    ends_with(terminal, 0);
}
