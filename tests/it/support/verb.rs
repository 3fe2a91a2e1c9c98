//! Runs the verbs of the program as an operator or a script does, with a deadline, and keeps all their output.

use super::group::has_ended;
use super::process::Instance;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The time limit for a verb, and for each wait for its output.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A verb that has not been started yet.
pub struct Verb {
    command: Command,
}

impl Verb {
    /// `cutover VERB`, without a folder in which the verb could find an instance.
    pub fn new(verb: &str) -> Verb {
        Verb::by(env!("CARGO_BIN_EXE_cutover"), verb)
    }

    /// The same with another program, such as a copy of `cutover`.
    pub fn by(program: impl AsRef<OsStr>, verb: &str) -> Verb {
        let mut command = Command::new(program);
        command.arg(verb).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for variable in ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "CUTOVER_LOG", "TERM", "NO_COLOR"] {
            command.env_remove(variable);
        }
        Verb { command }
    }

    /// A verb for this instance, which was started without `--name`. The verb gets a name all the same, because a verb
    /// whose instance has ended must not choose another instance of this machine.
    pub fn of(verb: &str, server: &Instance) -> Verb {
        Verb::new(verb).within(&folder(server)).args(["--name", &name(server)])
    }

    /// Sets the folder in which the verb looks for instances.
    pub fn within(self, folder: &Path) -> Verb {
        self.env("RUNTIME_DIRECTORY", folder)
    }

    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Verb {
        self.command.env(key, value);
        self
    }

    pub fn arg(self, arg: impl AsRef<OsStr>) -> Verb {
        self.args([arg])
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Verb {
        self.command.args(args);
        self
    }

    /// Changes a setting that only [`Command`] has.
    pub fn with(mut self, change: impl FnOnce(&mut Command) -> &mut Command) -> Verb {
        change(&mut self.command);
        self
    }

    /// Runs the verb to its end.
    #[track_caller]
    pub fn run(self) -> Ended {
        self.begin().end()
    }

    #[track_caller]
    pub fn begin(mut self) -> Running {
        let what = format!("{:?}", self.command);
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("spawn {what}: {error}"));
        let out = child.stdout.take().map(Heard::of);
        let err = child.stderr.take().map(Heard::of);
        Running { what, process: Process::new(child), out, err }
    }

    /// The command, and its text for messages.
    pub(super) fn into_command(self) -> (Command, String) {
        let what = format!("{:?}", self.command);
        (self.command, what)
    }
}

/// The folder with the control socket of the instance.
pub fn folder(server: &Instance) -> PathBuf {
    server.directory().join("run")
}

/// The name of an instance that was started without `--name`: its first address.
pub fn name(server: &Instance) -> String {
    server.addr().to_string()
}

pub fn socket(server: &Instance) -> PathBuf {
    folder(server).join(format!("{}.sock", name(server)))
}

/// The exit status of a verb, and all its output.
#[derive(Debug)]
pub struct Ended {
    pub what: String,
    /// The exit code. `None` if a signal has ended the verb.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// # Panics
    /// If the verb ended with another code, or panicked.
    #[track_caller]
    pub fn with(self, code: i32) -> Ended {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(!self.err.contains("panicked"), "{self:#?}");
        self
    }

    /// # Panics
    /// If the code is not 0, or stderr is not empty, or stdout is not exactly `out`.
    #[track_caller]
    pub fn says(self, out: &str) {
        let ended = self.with(0);
        assert_eq!((ended.out.as_str(), ended.err.as_str()), (out, ""), "{}", ended.what);
    }

    /// # Panics
    /// If the code is another one, or stdout is not empty, or stderr is not one line with all of these words.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) {
        let ended = self.with(code);
        assert_eq!(ended.out, "", "{ended:#?}");
        assert_eq!(ended.err.lines().count(), 1, "{ended:#?}");
        for word in words {
            assert!(ended.err.contains(word), "`{word}` is not in: {ended:#?}");
        }
    }
}

/// A running verb, which is killed on drop.
pub struct Running {
    what: String,
    process: Process,
    out: Option<Heard>,
    err: Option<Heard>,
}

impl Running {
    /// Waits until stdout contains this text.
    #[track_caller]
    pub fn wait_out(&self, text: &str) {
        self.wait(self.out.as_ref(), text);
    }

    /// Waits until stderr contains this text.
    #[track_caller]
    pub fn wait_err(&self, text: &str) {
        self.wait(self.err.as_ref(), text);
    }

    #[track_caller]
    fn wait(&self, heard: Option<&Heard>, text: &str) {
        let heard = heard.expect("it is not heard: its output goes elsewhere");
        if !heard.wait(|said| said.contains(text)) {
            panic!("{} did not say `{text}`; stdout:\n{}\nstderr:\n{}", self.what, self.out(), self.err());
        }
    }

    /// The output on stdout so far.
    pub fn out(&self) -> String {
        self.out.as_ref().map(Heard::text).unwrap_or_default()
    }

    pub fn err(&self) -> String {
        self.err.as_ref().map(Heard::text).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.child.try_wait().expect("our own child").is_none()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.child), signal).expect("signal a verb");
    }

    /// Waits until the verb has ended.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        let Some(status) = self.process.wait() else {
            panic!("{} did not end; stdout:\n{}\nstderr:\n{}", self.what, self.out(), self.err());
        };
        let said = |heard: Option<Heard>| heard.map(Heard::whole).unwrap_or_default();
        let (out, err) = (said(self.out.take()), said(self.err.take()));
        Ended { what: self.what.clone(), code: status.code(), signal: status.signal(), out, err }
    }
}

/// A child process that is killed on drop, so that no child outlives the test.
pub(super) struct Process {
    pub(super) child: Child,
    pidfd: OwnedFd,
}

impl Process {
    pub(super) fn new(child: Child) -> Process {
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a pidfd of our own child");
        Process { child, pidfd }
    }

    /// Waits for the end of the child. `None` if the child does not end in time.
    pub(super) fn wait(&mut self) -> Option<std::process::ExitStatus> {
        has_ended(&self.pidfd, PATIENCE).then(|| self.child.wait().expect("our own child"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // `kill` does not signal a child that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The output that a thread reads from a pipe.
struct Heard {
    said: Arc<Said>,
    reader: JoinHandle<()>,
}

#[derive(Default)]
struct Said {
    text: Mutex<(String, End)>,
    more: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    Closed,
}

impl Heard {
    fn of(mut pipe: impl Read + Send + 'static) -> Heard {
        let said = Arc::new(Said::default());
        let to = said.clone();
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                let read = match pipe.read(&mut bytes) {
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => 0,
                };
                let mut text = to.text();
                match read {
                    0 => text.1 = End::Closed,
                    // The verbs write whole lines at once, and the output here is ASCII, so no character is split.
                    _ => text.0.push_str(&String::from_utf8_lossy(&bytes[..read])),
                }
                to.more.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        Heard { said, reader }
    }

    fn text(&self) -> String {
        self.said.text().0.clone()
    }

    /// Waits until the output satisfies the condition. Returns false if the output ends before, or the time is over.
    fn wait(&self, enough: impl Fn(&str) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut text = self.said.text();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if enough(&text.0) || text.1 == End::Closed || left.is_zero() {
                return enough(&text.0);
            }
            text = self.said.more.wait_timeout(text, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All of the output. Waits for the end of the pipe, and so for the end of the process.
    fn whole(self) -> String {
        self.reader.join().expect("the reader does not panic");
        self.said.text().0.clone()
    }
}

impl Said {
    fn text(&self) -> MutexGuard<'_, (String, End)> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
