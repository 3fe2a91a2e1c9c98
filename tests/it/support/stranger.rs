//! A process that is unrelated to any server, and counts the SIGHUP signals that it receives.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// Python runs the handler before the next line of the program, so an answer counts every signal that was sent before
/// its question.
const SCRIPT: &str = "
import signal, sys
hups = 0
def count(*_):
    global hups
    hups += 1
signal.signal(signal.SIGHUP, count)
print('ready', flush=True)
for line in sys.stdin:
    print(hups, flush=True)
";

/// The unrelated process, which is killed on drop.
pub struct Stranger {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Stranger {
    /// Starts the process, and waits until it handles SIGHUP.
    #[track_caller]
    pub fn start() -> Stranger {
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("spawn python3");
        let questions = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut stranger = Stranger { child, questions, answers };
        assert_eq!(stranger.line(), "ready");
        stranger
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it speaks");
        line.trim_end().to_owned()
    }

    fn hups(&mut self) -> String {
        self.questions.write_all(b"?\n").expect("it listens");
        self.line()
    }

    /// Asserts that the process has received no SIGHUP. A SIGHUP from the test then proves that the process counts.
    #[track_caller]
    pub fn assert_unheard(mut self) {
        assert_eq!(self.hups(), "0", "SIGHUP went to a stranger");
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("our own child");
        assert_eq!(self.hups(), "1", "it does not count");
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
