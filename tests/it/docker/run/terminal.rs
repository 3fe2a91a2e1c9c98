//! `docker run -it`: a program uses the terminal as if `cutover run` were not there.

use crate::support::docker::Engine;
use crate::support::terminal::Terminal;

const CTRL_C: &[u8] = b"\x03";

/// Waits for the shell's prompt after this many Ctrl-C: input that is typed before the prompt is discarded.
#[track_caller]
fn prompts(terminal: &Terminal, after: usize) {
    terminal.wait("the prompt", |picture| {
        let interrupted = picture.iter().filter(|line| line.contains("^C")).count();
        interrupted == after && picture.last().is_some_and(|line| line == "$")
    });
}

#[test]
fn a_shell_has_the_terminal() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.perl() else { return };
    let run = ["run", "--interactive", "--tty", "--rm", "--pull", "never", image, "run", "--", "sh", "-i"];
    let terminal = engine.on_terminal(&run);
    // Log text of `cutover run` may follow the first prompt on the same line.
    terminal.wait("the prompt", |picture| picture.iter().any(|line| line.starts_with('$')));
    // The terminal echoes the input, so the answer must differ from it.
    terminal.types(b"echo it is $((40 + 2)).\n");
    terminal.wait_text("it is 42.");

    // Ctrl-C ends a child in the foreground.
    terminal.types(b"sh -c 'echo it runs: $((1 + 1)).; exec sleep 1000'\n");
    terminal.wait_text("it runs: 2.");
    terminal.types(CTRL_C);
    prompts(&terminal, 1);
    terminal.types(b"echo it ended by $?.\n");
    terminal.wait_text("it ended by 130.");
    // Ctrl-C at the prompt ends neither the shell nor the container.
    terminal.types(CTRL_C);
    prompts(&terminal, 2);
    terminal.types(b"echo still $((3 * 3)).\n");
    terminal.wait_text("still 9.");

    terminal.types(b"exit 7\n");
    let shown = terminal.end();
    assert_eq!(shown.code, Some(7), "{shown:#?}");
}
