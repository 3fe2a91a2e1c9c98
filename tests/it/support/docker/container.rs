//! A container that a test has started, and the operations on it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::super::systemd::journal::{Journal, Mark};
use super::super::systemd::said;
use super::{Engine, Process, client, processes};

/// The engine's own address on its bridge. A connection to a published port there takes the same path through the
/// kernel's rules as a user's. A connection to 127.0.0.1 would go through a program (docker-proxy).
const BRIDGE: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1));

/// A container that runs or has ended. It is removed on drop.
pub struct Container {
    engine: &'static Engine,
    id: String,
    log: Journal,
}

impl Container {
    #[track_caller]
    pub(super) fn run(engine: &'static Engine, options: &[&str], image: &str, words: &[&str]) -> Container {
        let id = engine.must(&[&["run", "--detach", "--pull", "never"], options, &[image], words].concat());
        Container::of(engine, id)
    }

    /// A container that was started in another way, by its name or id.
    #[track_caller]
    pub fn of(engine: &'static Engine, name: impl Into<String>) -> Container {
        let id = name.into();
        // The command is `docker logs --follow`, with stderr redirected to stdout.
        let mut logs = engine.command(&["logs", "--follow", &id]);
        let log = Journal::follow(both_in_one(&mut logs));
        Container { engine, id, log }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Runs a command inside the container to its end, as the container's user.
    #[track_caller]
    pub fn exec(&self, words: &[&str]) -> Output {
        self.engine.docker(&[&["exec", &self.id], words].concat())
    }

    /// A value of `docker inspect`, such as `{{.State.Status}}`.
    #[track_caller]
    pub fn inspect(&self, format: &str) -> String {
        self.engine.must(&["inspect", "--format", format, &self.id])
    }

    /// Sends a signal to process 1 of the container.
    #[track_caller]
    pub fn kill(&self, signal: &str) {
        self.engine.must(&["kill", "--signal", signal, &self.id]);
    }

    /// Runs `docker stop`, with the timeout that the container was started with. Returns the duration and the exit
    /// code.
    #[track_caller]
    pub fn stop(&self) -> (Duration, i32) {
        let began = Instant::now();
        self.engine.must(&["stop", &self.id]);
        (began.elapsed(), self.exit_code())
    }

    /// Waits for the end of the container, and returns the exit code.
    #[track_caller]
    pub fn wait(&self, within: Duration) -> i32 {
        let seconds = format!("{:.3}", within.as_secs_f64());
        let done = client(&self.engine.state, &seconds, &["wait", &self.id]).output().expect("run timeout(1)");
        assert!(
            done.status.success(),
            "{} has not ended within {within:?}: {}\n{}",
            self.id,
            said(&done),
            self.state()
        );
        String::from_utf8_lossy(&done.stdout).trim().parse().expect("a number")
    }

    #[track_caller]
    pub fn exit_code(&self) -> i32 {
        self.inspect("{{.State.ExitCode}}").parse().expect("a number")
    }

    /// The address of a published port in the engine's network namespace.
    #[track_caller]
    pub fn published(&self, port: u16) -> SocketAddr {
        let list = self.engine.must(&["port", &self.id, &format!("{port}/tcp")]);
        let published = list.lines().find_map(|line| line.rsplit_once(':')?.1.parse().ok());
        SocketAddr::new(BRIDGE, published.unwrap_or_else(|| panic!("port {port} is not published: {list}")))
    }

    /// The processes of the container, by their pids inside it, process 1 first.
    #[track_caller]
    pub fn processes(&self) -> Vec<Process> {
        let first = self.inspect("{{.State.Pid}}").parse().expect("a number");
        if first == 0 { Vec::new() } else { processes::beside(&self.engine.proc(), first) }
    }

    /// The zombies of the container.
    #[track_caller]
    pub fn zombies(&self) -> Vec<Process> {
        self.processes().into_iter().filter(|process| process.state == 'Z').collect()
    }

    /// The resident memory of process 1, in bytes (VmRSS).
    #[track_caller]
    pub fn resident_bytes(&self) -> u64 {
        self.processes().first().expect("it runs").resident
    }

    pub fn mark(&self) -> Mark {
        self.log.mark()
    }

    /// Waits for a line of the log with `needle`, and returns the first one.
    #[track_caller]
    pub fn wait_log(&self, needle: &str, within: Duration) -> String {
        self.log.wait_after(Mark::default(), needle, within)
    }

    #[track_caller]
    pub fn wait_log_after(&self, mark: Mark, needle: &str, within: Duration) -> String {
        self.log.wait_after(mark, needle, within)
    }

    /// The output of the container up to now: stdout, then stderr.
    #[track_caller]
    pub fn logs(&self) -> String {
        said(&self.engine.docker(&["logs", &self.id]))
    }

    /// The state for a panic message: the end of the log, and the state that the engine reports.
    fn state(&self) -> String {
        let state = self.engine.docker(&["inspect", "--format", "{{json .State}}", &self.id]);
        format!("{}container {}: {}", self.log.tail(), self.id, said(&state))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.state());
        }
        let removed = self.engine.docker(&["rm", "--force", "--volumes", &self.id]);
        if !removed.status.success() {
            eprintln!("container {} is not removed: {}", self.id, said(&removed));
        }
    }
}

/// The same command with stderr redirected to stdout.
fn both_in_one(command: &mut Command) -> Command {
    let mut both = Command::new("sh");
    both.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(command.get_program()).args(command.get_args());
    let changed = command.get_envs();
    for (name, value) in changed {
        match value {
            Some(value) => both.env(name, value),
            None => both.env_remove(name),
        };
    }
    both
}
