//! Programs of other projects, clients and conformance suites, which `tests/run` installs or unpacks; and what a test does
//! with such a program: runs the program while a server reloads.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use super::process::Instance;
use super::skip;

/// The folder into which `tests/run` unpacks the programs that are not installed.
const UNPACKED: &str = env!("CARGO_TARGET_TMPDIR");
/// How long a program may run, in seconds, before timeout(1) ends it.
const LIMIT: &str = "120";
const SOON: Duration = Duration::from_secs(30);
/// The number of old generations that drain at once at most. With one more, the server ends the oldest.
const DRAINING: usize = 2;
/// The time between two reloads, so that the clients use the processors as well.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a client that ends soon is run at least, and during how many reloads at least.
const RUNS: usize = 20;
const RELOADS: usize = 5;

/// A command that runs an installed program, with a time limit. `None` if the program is not there; the test then reports
/// that it is skipped, which is a failure in CI.
pub fn installed(program: &str) -> Option<Command> {
    let is_there = Command::new(program).arg("-h").stdin(Stdio::null()).output().is_ok();
    if !is_there {
        skip(&format!("there is no {program}"));
        return None;
    }
    Some(limited(program))
}

/// As [`installed`], for a program in a folder of `tests/run`.
pub fn unpacked(path: &str) -> Option<Command> {
    find(path).map(limited)
}

/// As [`installed`], for Python with a package in a folder of `tests/run`.
pub fn python(package: &str) -> Option<Command> {
    let folder = find(package)?;
    let mut command = limited("python3");
    command.env("PYTHONPATH", folder);
    Some(command)
}

/// The path of a file or folder that `tests/run` has unpacked.
pub fn find(path: &str) -> Option<PathBuf> {
    let path = Path::new(UNPACKED).join(path);
    if !path.exists() {
        skip(&format!("there is no {}: tests/run", path.display()));
        return None;
    }
    Some(path)
}

fn limited(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg(LIMIT).arg(program).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
///
/// # Panics
/// If the command cannot be started.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a command to its end, and returns what the command has written to stdout and stderr.
///
/// # Panics
/// If the command fails.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let ended = output(command);
    assert!(ended.status.success(), "{command:?}: {}: {}", ended.status, text(&ended));
    text(&ended)
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// Does this work while the server reloads again and again, and returns the number of reloads too.
pub fn while_reloading<T>(server: &Instance, work: impl FnOnce() -> T) -> (T, usize) {
    let reloads = Reloads::default();
    let done = reloads.during(server, work);
    (done, reloads.count.into_inner())
}

/// Runs a client that ends soon again and again while the server reloads, and returns the number of runs.
pub fn repeat_while_reloading(server: &Instance, mut run: impl FnMut()) -> usize {
    let reloads = Reloads::default();
    let runs = reloads.during(server, || {
        let mut runs = 0;
        while !reloads.ended.load(SeqCst) && (runs < RUNS || reloads.count.load(SeqCst) < RELOADS) {
            run();
            runs += 1;
        }
        runs
    });
    assert!(!server.log_contains("not steered"), "{}", server.log());
    runs
}

#[derive(Default)]
struct Reloads {
    count: AtomicUsize,
    /// Whether the work or the reloads have ended, also by a panic.
    ended: AtomicBool,
}

impl Reloads {
    fn during<T>(&self, server: &Instance, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ends = Ends(&self.ended);
                self.reload(server);
            });
            let _ends = Ends(&self.ended);
            work()
        })
    }

    /// Reloads until the work has ended. Each old generation has time to finish its connections.
    fn reload(&self, server: &Instance) {
        let mut old = VecDeque::new();
        while !self.ended.load(SeqCst) {
            old.push_back(server.main_pid());
            server.reload();
            self.count.fetch_add(1, SeqCst);
            std::thread::sleep(PAUSE);
            if old.len() > DRAINING {
                server.wait_gone(old.pop_front().expect("there are some"), SOON);
            }
        }
    }
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
