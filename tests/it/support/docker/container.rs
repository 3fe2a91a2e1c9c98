//! A container that a test started, and what it asks of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::super::systemd::journal::{Journal, Mark};
use super::super::systemd::said;
use super::{Engine, Process, client, processes};

/// The engine's own address on its bridge. What comes to a published port there goes the way that a user's request goes,
/// through the kernel's rules; 127.0.0.1 would be a program (docker-proxy) in between.
const BRIDGE: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1));

/// A running container, or one that has ended. It is removed when this is dropped.
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

    /// One that was started in another way, by its name or id.
    #[track_caller]
    pub fn of(engine: &'static Engine, name: impl Into<String>) -> Container {
        let id = name.into();
        // As `docker logs --follow` in a shell that puts both into one.
        let mut logs = engine.command(&["logs", "--follow", &id]);
        let log = Journal::follow(both_in_one(&mut logs));
        Container { engine, id, log }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Runs a command inside, as the container's user, to its end.
    #[track_caller]
    pub fn exec(&self, words: &[&str]) -> Output {
        self.engine.docker(&[&["exec", &self.id], words].concat())
    }

    /// A part of `docker inspect`, such as `{{.State.Status}}`.
    #[track_caller]
    pub fn inspect(&self, format: &str) -> String {
        self.engine.must(&["inspect", "--format", format, &self.id])
    }

    /// Sends a signal to its process 1.
    #[track_caller]
    pub fn kill(&self, signal: &str) {
        self.engine.must(&["kill", "--signal", signal, &self.id]);
    }

    /// `docker stop`, with the time that the container was started with. How long it took, and the exit code.
    #[track_caller]
    pub fn stop(&self) -> (Duration, i32) {
        let began = Instant::now();
        self.engine.must(&["stop", &self.id]);
        (began.elapsed(), self.exit_code())
    }

    /// Waits for its end, and has the exit code.
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

    /// Where a published port is reached, from the engine's network.
    #[track_caller]
    pub fn published(&self, port: u16) -> SocketAddr {
        let list = self.engine.must(&["port", &self.id, &format!("{port}/tcp")]);
        let published = list.lines().find_map(|line| line.rsplit_once(':')?.1.parse().ok());
        SocketAddr::new(BRIDGE, published.unwrap_or_else(|| panic!("port {port} is not published: {list}")))
    }

    /// Its processes, by its own numbers, process 1 first.
    #[track_caller]
    pub fn processes(&self) -> Vec<Process> {
        let first = self.inspect("{{.State.Pid}}").parse().expect("a number");
        if first == 0 { Vec::new() } else { processes::beside(&self.engine.proc(), first) }
    }

    /// Those that have ended and that nobody has waited for.
    #[track_caller]
    pub fn zombies(&self) -> Vec<Process> {
        self.processes().into_iter().filter(|process| process.state == 'Z').collect()
    }

    /// What its process 1 holds in memory (VmRSS).
    #[track_caller]
    pub fn resident_bytes(&self) -> u64 {
        self.processes().first().expect("it runs").resident
    }

    pub fn mark(&self) -> Mark {
        self.log.mark()
    }

    /// The first line of its log with `needle`. Waits for it.
    #[track_caller]
    pub fn wait_log(&self, needle: &str, within: Duration) -> String {
        self.log.wait_after(Mark::default(), needle, within)
    }

    #[track_caller]
    pub fn wait_log_after(&self, mark: Mark, needle: &str, within: Duration) -> String {
        self.log.wait_after(mark, needle, within)
    }

    /// All that it has said up to now, on both.
    #[track_caller]
    pub fn logs(&self) -> String {
        said(&self.engine.docker(&["logs", &self.id]))
    }

    /// For the text of a panic.
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

/// The same command, with stderr where stdout is, whatever that is to be.
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
