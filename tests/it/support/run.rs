//! Starts `cutover run` with a program, watches the supervisor, and ends all its processes.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::time::{Duration, Instant};

use cutover::control::{Control, Status};
use rustix::process::{Pid, Signal, kill_process};

use super::process::{Instance, Start};
use super::verb::Verb;

const SOON: Duration = Duration::from_secs(30);
/// The polling interval for states that give no event to wait for.
const LOOK: Duration = Duration::from_millis(5);

/// The settings with which a supervisor is started.
pub struct Run {
    start: Start,
    words: Vec<String>,
}

/// A started supervisor and all processes of its program.
pub struct Running {
    instance: Instance,
}

impl Run {
    /// `cutover run --name it -- WORDS`
    pub fn new<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Run {
        let start = Start::program(env!("CARGO_BIN_EXE_cutover")).args(["run", "--name", "it"]);
        Run { start, words: words.into_iter().map(Into::into).collect() }
    }

    /// The same with `--listen`, for a program that listens on this address.
    pub fn at<W: Into<String>>(address: SocketAddr, words: impl IntoIterator<Item = W>) -> Run {
        Run::new(words).args(["--listen", &address.to_string()])
    }

    pub fn args<A: AsRef<std::ffi::OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Run {
        self.start = self.start.args(args);
        self
    }

    pub fn with(mut self, change: impl FnOnce(Start) -> Start) -> Run {
        self.start = change(self.start);
        self
    }

    /// Spawns the supervisor, and does not wait for READY=1.
    pub fn spawn(self) -> Running {
        Running { instance: self.start.arg("--").args(self.words).spawn() }
    }

    /// Spawns the supervisor, and waits until the first generation is live.
    #[track_caller]
    pub fn ready(self) -> Running {
        let running = Running { instance: self.start.arg("--").args(self.words).ready() };
        running.wait_log(" live generation=1 ", SOON);
        running
    }
}

impl Running {
    /// The status that the supervisor reports on its control socket.
    #[track_caller]
    pub fn status(&self) -> Status {
        let control = Control::at(self.directory().join("run/it.sock"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let answer = runtime.block_on(async { tokio::time::timeout(SOON, control.status()).await });
        answer.expect("an answer in time").unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// A verb for this supervisor.
    pub fn verb(&self, verb: &str) -> Verb {
        Verb::new(verb).within(&self.directory().join("run")).args(["--name", "it"])
    }

    /// The pid of the live generation's first process.
    #[track_caller]
    pub fn live(&self) -> u32 {
        let status = self.status();
        status.generations.iter().find(|g| g.share.as_percent() > 0.0).expect("a live one").pid.number()
    }

    /// Sends SIGHUP, and waits until this generation is live.
    #[track_caller]
    pub fn reload_to(&self, generation: u64) {
        let mark = self.mark();
        self.hup();
        self.wait_log_after(mark, &format!("generation {generation} is live"), SOON);
    }

    /// Sends SIGHUP, and returns the log line with the reason for the failure.
    #[track_caller]
    pub fn reload_fails(&self) -> String {
        let mark = self.mark();
        self.hup();
        self.wait_log_after(mark, "reload failed", SOON)
    }

    /// The processes of all generations of the program. The supervisor's mark in the environment identifies them.
    pub fn members(&self) -> BTreeSet<u32> {
        let mark = format!("CUTOVER_RUN={}/", self.first_pid());
        let is_marked = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(mark.as_bytes()))
        };
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_marked).collect()
    }

    /// Waits until a process of the program has ended and was reaped. `wait_gone` does not see the process, because
    /// each generation has its own process group.
    #[track_caller]
    pub fn wait_reaped(&self, pid: u32) {
        self.wait_until(&format!("process {pid} is gone"), || !Path::new(&format!("/proc/{pid}")).exists());
    }

    /// Polls until the condition holds.
    #[track_caller]
    pub fn wait_until(&self, what: &str, is_so: impl Fn() -> bool) {
        wait_until(what, is_so);
    }

    /// The zombies among the children of the supervisor.
    pub fn zombies(&self) -> Vec<u32> {
        zombies_of(self.first_pid())
    }

    /// Waits until the supervisor has no zombie. A process that has just ended is a zombie for a moment.
    #[track_caller]
    pub fn wait_no_zombies(&self) {
        self.wait_until("no zombie is left", || self.zombies().is_empty());
    }

    /// The resident memory of the supervisor, in KiB.
    pub fn resident(&self) -> usize {
        resident(self.first_pid())
    }
}

/// Polls until the condition holds.
#[track_caller]
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in {SOON:?}: {what}");
        std::thread::sleep(LOOK);
    }
}

/// The zombies among the children of a process.
pub fn zombies_of(parent: u32) -> Vec<u32> {
    let zombies = children(parent).into_iter().filter(|(_, state)| state == "Z");
    zombies.map(|(pid, _)| pid).collect()
}

/// The children of a process, whichever of its threads forked them, including zombies.
pub fn children_of(parent: u32) -> BTreeSet<u32> {
    children(parent).into_iter().map(|(pid, _)| pid).collect()
}

/// All living descendants of a process. Some programs overwrite the environment by which `members` finds them.
fn descendants(pid: u32) -> BTreeSet<u32> {
    let living = children(pid).into_iter().filter(|(_, state)| state != "Z");
    living.flat_map(|(child, _)| descendants(child).into_iter().chain([child])).collect()
}

/// The children of a process, each with its state (proc_pid_stat(5)).
fn children(parent: u32) -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let child = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit(')').next()?.split_whitespace();
        let state = fields.next()?.to_owned();
        (fields.next()?.parse() == Ok(parent)).then_some((pid, state))
    };
    pids.filter_map(child).collect()
}

/// The resident memory of a process, in KiB (VmRSS, proc_pid_status(5)).
#[track_caller]
pub fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.split_whitespace().next().and_then(|size| size.parse().ok()).expect("a number")
}

impl Deref for Running {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The supervisor is stopped first, so that it starts no new process. The processes of its program are killed
        // here, because `Instance` ends only the supervisor's process group.
        if let Some(pid) = i32::try_from(self.first_pid()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::STOP);
        }
        while let members = &self.members() | &descendants(self.first_pid())
            && !members.is_empty()
        {
            for pid in members.into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(LOOK);
        }
    }
}
