//! Runs a unit test again in a process of its own, where the test may do what would disturb the other tests of the
//! binary.

use std::process::{Command, Stdio};

const ROLE: &str = "CUTOVER_TEST_ROLE";

/// The role of the test in this process; `None` in the process where all tests run.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// `test` is the test function itself, so that a renamed test is still found.
pub(crate) fn reexec<T: Fn()>(test: T, role: &str) -> Command {
    let name = std::any::type_name_of_val(&test);
    let (_crate, name) = name.split_once("::").expect("a path");
    let mut command = Command::new(std::env::current_exe().expect("a file"));
    command.args([name, "--exact", "--nocapture"]).env(ROLE, role);
    command
}

/// Runs `test` in a process of its own until the process ends, and panics if the test fails.
#[track_caller]
pub(crate) fn run_again<T: Fn()>(test: T, role: &str) {
    let ended = reexec(test, role).stdin(Stdio::null()).output().expect("runs");
    let said = [ended.stdout.as_slice(), &ended.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    // A run that finds no such test exits with success as well.
    assert!(ended.status.success() && said.contains("1 passed"), "{}:\n{said}", ended.status);
    // What the test has skipped is printed here too.
    for line in said.lines().filter(|line| line.contains("skipped: ")) {
        eprintln!("{line}");
    }
}
