//! `docker run -it`: a program that has the terminal, as if nothing were between them.

use crate::support::docker::Engine;

const CTRL_C: &[u8] = b"\x03";

#[test]
fn a_shell_has_the_terminal() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.perl() else { return };
    let run = ["run", "--interactive", "--tty", "--rm", "--pull", "never", image, "run", "--", "sh", "-i"];
    let terminal = engine.on_terminal(&run);
    terminal.wait("the prompt", |picture| picture.last().is_some_and(|line| line == "$"));
    // What is typed is seen too, so the answer differs from it.
    terminal.types(b"echo it is $((40 + 2)).\n");
    terminal.wait_text("it is 42.");

    // A child in the foreground is ended by it,
    terminal.types(b"sh -c 'echo it runs: $((1 + 1)).; exec sleep 1000'\n");
    terminal.wait_text("it runs: 2.");
    terminal.types(CTRL_C);
    terminal.types(b"echo it ended by $?.\n");
    terminal.wait_text("it ended by 130.");
    // and neither the shell nor the container is.
    terminal.types(CTRL_C);
    terminal.types(b"echo still $((3 * 3)).\n");
    terminal.wait_text("still 9.");

    terminal.types(b"exit 7\n");
    let shown = terminal.end();
    assert_eq!(shown.code, Some(7), "{shown:#?}");
}
