//! The journal of a machine, followed from its start.

use std::io;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use crate::support::witness::Witness;

/// The command that follows the journal. Each line names the pid of its sender.
pub const FOLLOW: [&str; 6] =
    ["journalctl", "--follow", "--lines=all", "--output=short-monotonic", "--no-hostname", "--no-pager"];
const LINES_TOLD: usize = 60;

/// A position in the journal. The default is the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(usize);

pub struct Journal {
    witness: Arc<Witness>,
    reader: Child,
}

impl Journal {
    pub(in crate::support) fn follow(mut command: Command) -> Journal {
        let (lines, writer) = io::pipe().expect("make the pipe of the journal");
        let reader = command.stdout(writer).spawn().expect("run timeout(1) and nsenter(1)");
        // The command is dropped to close its write end of the pipe.
        drop(command);
        let witness = Arc::new(Witness::default());
        witness.read_log(lines);
        Journal { witness, reader }
    }

    pub fn mark(&self) -> Mark {
        Mark(self.witness.seen().lines.len())
    }

    /// Waits for a line with `needle` after the mark, and returns the first one.
    #[track_caller]
    pub fn wait_after(&self, mark: Mark, needle: &str, within: Duration) -> String {
        let found = self.witness.wait(
            within,
            || true,
            |seen| seen.lines[mark.0..].iter().find(|line| line.contains(needle)).cloned(),
        );
        found.unwrap_or_else(|| panic!("no `{needle}` in the journal within {within:?}"))
    }

    /// The last lines of the journal, for a panic message.
    pub fn tail(&self) -> String {
        let seen = self.witness.seen();
        let told = seen.lines.len().saturating_sub(LINES_TOLD);
        let lines = seen.lines[told..].iter().map(|line| format!("  {line}\n"));
        format!("the journal from line {}:\n{}", told + 1, lines.collect::<String>())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = self.reader.kill();
        let _ = self.reader.wait();
    }
}
