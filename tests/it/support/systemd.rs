//! A real systemd as process 1 of its own machine: a systemd-nspawn container with its own pids, mounts, cgroups and
//! network. Process 1 of the host may be any program. The machine boots in about a second, and ends when it is dropped.
//!
//! nsenter(1) runs commands inside the machine, and the journal is followed from the start. A load runs in this
//! process, in threads in the machine's network namespace, where 127.0.0.1 is the machine's own address.

pub(super) mod journal;
pub(super) mod root;

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub use journal::Mark;

use super::load::{Load, Plan};
use super::namespace;
use journal::Journal;
use rustix::process::{Pid, Signal, kill_process};

const BOOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/systemd/boot.sh");
const UNITS: &str = "/etc/systemd/system";
const BOOTED_WITHIN: Duration = Duration::from_secs(60);
const GONE_WITHIN: Duration = Duration::from_secs(20);
/// The time limit of a command of a test, in seconds. timeout(1) ends a command that takes longer, and exits with 124.
const COMMAND_SECONDS: &str = "120";
/// The polling interval for states that give no event to wait for.
const LOOK: Duration = Duration::from_millis(20);

/// A release of Debian, which determines the version of systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// systemd 252.
    Bookworm,
    /// systemd 257.
    Trixie,
}

impl Suite {
    pub fn name(self) -> &'static str {
        match self {
            Suite::Bookworm => "bookworm",
            Suite::Trixie => "trixie",
        }
    }
}

/// A booted machine.
pub struct Machine {
    /// The process of `boot.sh`, which waits for the end of the machine.
    keeper: Child,
    /// The pid of the machine's process 1, in our pid namespace.
    leader: u32,
    network: File,
    journal: Option<Journal>,
}

impl Machine {
    /// Boots a machine. `None` if the host cannot boot one; the test then reports that it is skipped, which is a
    /// failure in CI.
    #[track_caller]
    pub fn boot(suite: Suite) -> Option<Machine> {
        if !rustix::process::geteuid().is_root() {
            super::skip("a machine with systemd needs root");
            return None;
        }
        let root = root::root(suite).map_err(|why| super::skip(&why)).ok()?;
        Machine::of(&root).map_err(|why| super::skip(&format!("a machine with systemd cannot be had: {why}"))).ok()
    }

    fn of(root: &Path) -> Result<Machine, String> {
        static BOOTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("cutover-{}-{}", std::process::id(), BOOTED.fetch_add(1, Relaxed));
        let console = tempfile::tempfile().map_err(|error| format!("no file for the console: {error}"))?;
        let output = || console.try_clone().map(Stdio::from).map_err(|error| error.to_string());
        // The machine ends with this thread, whatever the reason.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private", "sh", BOOT]);
        command.arg(root).arg(name).stdin(Stdio::null()).stdout(output()?).stderr(output()?);
        let mut keeper = command.spawn().map_err(|error| format!("cannot run {command:?}: {error}"))?;
        match await_boot(&mut keeper) {
            Ok((leader, network)) => {
                let mut machine = Machine { keeper, leader, network, journal: None };
                machine.journal = Some(Journal::follow(machine.enter("nsenter", &[], &journal::FOLLOW)));
                Ok(machine)
            }
            Err(why) => {
                end(&mut keeper);
                Err(format!("{why}; its console: {}", read_from_start(console)))
            }
        }
    }

    /// A command to run inside the machine, with a time limit.
    pub fn command(&self, words: &[&str]) -> Command {
        self.enter("timeout", &[COMMAND_SECONDS, "nsenter"], words)
    }

    fn enter(&self, program: &str, before: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(before).args(["--all", "--target", &self.leader.to_string(), "env", "-i"]);
        command.args(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end, which may be a failure.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("run timeout(1) and nsenter(1)")
    }

    /// Runs a command, which must succeed. Returns its stdout without trailing white space.
    #[track_caller]
    pub fn must(&self, words: &[&str]) -> String {
        succeeded(words, &self.run(words))
    }

    /// The path by which this process reaches a path inside the machine.
    fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.leader))
    }

    /// Copies an executable file into the machine atomically, as a deployment does.
    #[track_caller]
    pub fn copy(&self, file: impl AsRef<Path>, to: &str) {
        self.put(to, |beside| fs::copy(file, beside).map(drop));
    }

    /// Makes a hard link to a file. The link can be replaced without a change of the original.
    #[track_caller]
    pub fn link(&self, file: &str, to: &str) {
        self.put(to, |beside| fs::hard_link(self.path(file), beside));
    }

    /// Writes an executable file with this text atomically.
    #[track_caller]
    pub fn script(&self, text: &str, to: &str) {
        self.put(to, |beside| fs::write(beside, text));
    }

    #[track_caller]
    fn put(&self, to: &str, write: impl FnOnce(&Path) -> io::Result<()>) {
        let (beside, place) = (self.path(&format!("{to}.beside")), self.path(to));
        fs::create_dir_all(place.parent().expect("a path in a folder")).expect("make a folder in the machine");
        write(&beside).expect("write a file into the machine");
        fs::set_permissions(&beside, Permissions::from_mode(0o755)).expect("make it executable");
        fs::rename(beside, place).expect("rename it into place");
    }

    #[track_caller]
    pub fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.path(path)).unwrap_or_else(|error| panic!("read {path} of the machine: {error}"))
    }

    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Writes a unit file, and makes systemd read it. A name such as `web.service.d/10-test.conf` is a drop-in.
    #[track_caller]
    pub fn unit(&self, name: &str, text: &str) {
        let path = self.path(&format!("{UNITS}/{name}"));
        fs::create_dir_all(path.parent().expect("a path in a folder")).expect("make the folder of a unit");
        fs::write(&path, text).expect("write a unit");
        self.must(&["systemctl", "daemon-reload"]);
    }

    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.must(&["systemctl", "show", "--property", name, "--value", unit])
    }

    #[track_caller]
    pub fn main_pid(&self, unit: &str) -> u32 {
        self.property(unit, "MainPID").parse().expect("a number")
    }

    /// The processes in the unit's cgroup, by their pids inside the machine.
    #[track_caller]
    pub fn pids(&self, unit: &str) -> Vec<u32> {
        let cgroup = self.property(unit, "ControlGroup");
        if cgroup.is_empty() {
            return Vec::new();
        }
        let list = self.run(&["cat", &format!("/sys/fs/cgroup{cgroup}/cgroup.procs")]);
        String::from_utf8_lossy(&list.stdout).lines().filter_map(|line| line.parse().ok()).collect()
    }

    pub fn journal(&self) -> &Journal {
        self.journal.as_ref().expect("it is followed as soon as the machine is made")
    }

    /// All lines of the journal about this unit, up to now.
    #[track_caller]
    pub fn journal_of(&self, unit: &str) -> Vec<String> {
        self.must(&["journalctl", "--sync"]);
        let text = self.must(&["journalctl", "--unit", unit, "--output=cat", "--no-pager"]);
        text.lines().map(str::to_owned).collect()
    }

    /// Makes systemd log each change of a unit's state from now on.
    #[track_caller]
    pub fn log_states(&self) {
        self.must(&["systemctl", "log-level", "debug"]);
    }

    /// All states (values of SubState) that the unit has entered since [`Machine::log_states`], even the shortest.
    #[track_caller]
    pub fn states(&self, unit: &str) -> Vec<String> {
        let prefix = format!("{unit}: Changed ");
        let lines = self.journal_of(unit);
        let changes = lines.iter().filter_map(|line| line.strip_prefix(&prefix)?.split_once(" -> "));
        changes.map(|(_, to)| to.to_owned()).collect()
    }

    /// Starts a load whose threads are in the machine's network namespace.
    pub fn load(&self, plan: Plan) -> Load {
        namespace::inside(&self.network, || plan.start())
    }

    /// Runs `act` in the machine's network namespace, and in no other namespace of the machine.
    pub fn in_network<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        namespace::inside(&self.network, act)
    }

    /// Polls until the condition holds, for changes that systemd does not announce.
    #[track_caller]
    pub fn wait(&self, what: &str, within: Duration, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + within;
        while !is_so() {
            assert!(Instant::now() < deadline, "not {what} within {within:?}");
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Printed for any panic, whatever its reason.
            eprintln!("{}", self.journal().tail());
        }
        end(&mut self.keeper);
    }
}

/// The output of a command: stdout, then stderr.
pub fn said(done: &Output) -> String {
    [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// The stdout of a command, without trailing white space. The command must have succeeded.
#[track_caller]
pub fn succeeded(words: &[&str], done: &Output) -> String {
    assert!(done.status.success(), "{words:?}: {}\n{}", done.status, said(done));
    String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
}

/// Ends the machine, and waits until `boot.sh` has cleaned up.
fn end(keeper: &mut Child) {
    let deadline = Instant::now() + GONE_WITHIN;
    let _ = kill_process(Pid::from_child(keeper), Signal::TERM);
    while matches!(keeper.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            eprintln!("the machine of process {} is not gone in {GONE_WITHIN:?}", keeper.id());
            return;
        }
        std::thread::sleep(LOOK);
    }
}

fn await_boot(keeper: &mut Child) -> Result<(u32, File), String> {
    let deadline = Instant::now() + BOOTED_WITHIN;
    while Instant::now() < deadline {
        if let Some(status) = keeper.try_wait().map_err(|error| error.to_string())? {
            return Err(format!("it ended ({status})"));
        }
        if let Some(leader) = leader_of(keeper.id())
            && is_up(leader)
        {
            let network = File::open(format!("/proc/{leader}/ns/net")).map_err(|error| error.to_string())?;
            return Ok((leader, network));
        }
        std::thread::sleep(LOOK);
    }
    Err(format!("it was not up in {BOOTED_WITHIN:?}"))
}

/// The pid of the machine's systemd. `boot.sh`, unshare, systemd-nspawn and systemd are each the only child of the one
/// before.
fn leader_of(keeper: u32) -> Option<u32> {
    let child = |pid: u32| -> Option<u32> {
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.trim().parse().ok()
    };
    let leader = child(child(child(keeper)?)?)?;
    let name = fs::read_to_string(format!("/proc/{leader}/comm")).ok()?;
    (name.trim() == "systemd").then_some(leader)
}

/// Whether the machine's systemd has started everything. Waits for that, once systemd answers requests.
fn is_up(leader: u32) -> bool {
    let mut command = Command::new("timeout");
    command.args(["20", "nsenter", "--all", "--target", &leader.to_string()]);
    command.args(["systemctl", "is-system-running", "--wait"]).stdin(Stdio::null());
    let state = command.output().map(|done| done.stdout).unwrap_or_default();
    // Degraded means that a unit has failed which the tests do not need.
    matches!(state.trim_ascii(), b"running" | b"degraded")
}

pub(super) fn read_from_start(mut file: File) -> String {
    use std::io::{Read as _, Seek as _};
    let mut bytes = Vec::new();
    let _ = file.rewind();
    let _ = file.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
