//! The harness around real processes: starts a program as a service manager does, watches the program, and ends all its
//! processes.
//!
//! The program gets its own process group, by which the harness finds later generations: they become orphans sooner or
//! later, but stay in the group. Later generations also inherit the log, which is one pipe for stdout and stderr. A
//! separate thread reads the log, so a log line may arrive after a notification that was sent later: a test must wait
//! for the line. Every wait has a deadline, and panics with a description of the wait and the end of the log.

pub use super::start::Start;
pub use super::witness::Notification;

use super::group::{has_ended, is_frozen, living, number_of, pid_of};
use super::witness::{NotifySocket, Seen, Witness, address_in, main_pid};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const RELOADED_WITHIN: Duration = Duration::from_secs(20);
const READY_WITHIN: Duration = Duration::from_secs(20);
const LINES_TOLD: usize = 40;

/// A position in the log: the number of lines before it.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

/// A started program and all processes of its process group.
pub struct Instance {
    first: Pid,
    child: Mutex<Child>,
    listens: usize,
    witness: Arc<Witness>,
    _notify: NotifySocket,
    notify_path: PathBuf,
    directory: TempDir,
    /// Whether a panic message already contains the log.
    told: AtomicBool,
}

impl Instance {
    /// Prepares NOTIFY_SOCKET and the log, then spawns the program.
    pub(super) fn watch(listens: usize, spawn: impl FnOnce(&Path, io::PipeWriter) -> Child) -> Instance {
        let directory = tempfile::Builder::new().prefix("cutover-it-").tempdir();
        let directory = directory.expect("make a temporary directory");
        let notify_path = directory.path().join("notify");
        let witness = Arc::new(Witness::default());
        let notify = NotifySocket::bind(&notify_path, &witness).expect("bind NOTIFY_SOCKET");
        // A program that runs as another user notifies as well.
        for path in [directory.path(), &notify_path] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("our own");
        }
        let (log, writer) = io::pipe().expect("make the pipe of the log");
        let child = spawn(&notify_path, writer);
        witness.read_log(log);
        Instance {
            first: pid_of(child.id()),
            child: Mutex::new(child),
            listens,
            witness,
            _notify: notify,
            notify_path,
            directory,
            told: AtomicBool::new(false),
        }
    }

    #[track_caller]
    pub(super) fn wait_ready(&self) {
        self.wait("READY=1", READY_WITHIN, |seen| {
            let mut all = seen.notifications.iter();
            all.any(|n| n.value("READY") == Some("1")).then_some(())
        });
    }

    pub fn first_pid(&self) -> u32 {
        number_of(self.first)
    }

    /// The pid in the last MAINPID= that came from the main process of that moment, or else the pid of the first
    /// process.
    pub fn main_pid(&self) -> u32 {
        main_pid(self.first_pid(), &self.witness.seen().notifications)
    }

    #[track_caller]
    pub fn addr(&self) -> SocketAddr {
        self.addrs()[0]
    }

    /// The addresses on which the first generation listens, from its log. Waits until the log names as many addresses
    /// as the program was given.
    #[track_caller]
    pub fn addrs(&self) -> Vec<SocketAddr> {
        let wanted = self.listens.max(1);
        let what = format!("{wanted} log lines `listening … address=`");
        self.wait(&what, Duration::from_secs(5), |seen| {
            let mut addresses = Vec::new();
            for address in seen.lines.iter().filter_map(|line| address_in(line)) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            (addresses.len() >= wanted).then_some(addresses)
        })
    }

    pub fn notify_path(&self) -> &Path {
        &self.notify_path
    }

    /// The private directory of this instance, removed when the instance is dropped.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    #[track_caller]
    pub fn signal(&self, pid: u32, signal: Signal) {
        if let Err(errno) = kill_process(pid_of(pid), signal) {
            panic!("signal {signal:?} to {pid}: {errno}\n{}", self.state());
        }
    }

    /// Sends SIGSTOP, and waits until every thread has stopped. On a busy machine, other threads run on for a while.
    #[track_caller]
    pub fn freeze(&self, pid: u32) {
        self.signal(pid, Signal::STOP);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_frozen(pid) {
            assert!(Instant::now() < deadline, "process {pid} does not stop\n{}", self.state());
            std::thread::yield_now();
        }
    }

    /// Sends SIGHUP to the main process.
    #[track_caller]
    pub fn hup(&self) {
        self.signal(self.main_pid(), Signal::HUP);
    }

    /// Sends SIGHUP, and waits until another process is the main process. Returns the pid of that process.
    #[track_caller]
    pub fn reload(&self) -> u32 {
        let before = self.main_pid();
        self.signal(before, Signal::HUP);
        let first = self.first_pid();
        let what = format!("MAINPID= another than {before}");
        self.wait(&what, RELOADED_WITHIN, |seen| {
            let now = main_pid(first, &seen.notifications);
            (now != before).then_some(now)
        })
    }

    pub fn mark(&self) -> Mark {
        Mark(self.witness.seen().lines.len())
    }

    /// Waits for a line with `needle`, and returns the first one since the start.
    #[track_caller]
    pub fn wait_log(&self, needle: &str, within: Duration) -> String {
        self.wait_log_after(Mark(0), needle, within)
    }

    #[track_caller]
    pub fn wait_log_after(&self, mark: Mark, needle: &str, within: Duration) -> String {
        self.wait(&format!("log line `{needle}`"), within, |seen| {
            let mut lines = seen.lines[mark.0..].iter();
            lines.find(|line| line.contains(needle)).cloned()
        })
    }

    pub fn log(&self) -> String {
        self.witness.seen().lines.join("\n")
    }

    pub fn log_contains(&self, needle: &str) -> bool {
        self.count_log(needle) > 0
    }

    /// The number of lines with `needle`.
    pub fn count_log(&self, needle: &str) -> usize {
        let seen = self.witness.seen();
        seen.lines.iter().filter(|line| line.contains(needle)).count()
    }

    pub fn notifications(&self) -> Vec<Notification> {
        self.witness.seen().notifications.clone()
    }

    /// Waits for a notification with `needle`, and returns the first one since the start.
    #[track_caller]
    pub fn wait_notification(&self, needle: &str, within: Duration) -> Notification {
        self.wait(&format!("notification `{needle}`"), within, |seen| {
            let mut all = seen.notifications.iter();
            all.find(|notification| notification.text.contains(needle)).cloned()
        })
    }

    /// Waits for a notification with `needle` after the first `so_far` notifications, and returns it.
    #[track_caller]
    pub fn wait_notification_after(&self, so_far: usize, needle: &str, within: Duration) -> Notification {
        self.wait(&format!("notification `{needle}` after {so_far} others"), within, |seen| {
            let mut all = seen.notifications.iter().skip(so_far);
            all.find(|notification| notification.text.contains(needle)).cloned()
        })
    }

    /// The living processes of the group, without zombies.
    pub fn pids(&self) -> Vec<u32> {
        living(self.first)
    }

    /// Waits until a process of the group has ended, whichever process reaps it.
    #[track_caller]
    pub fn wait_gone(&self, pid: u32, within: Duration) {
        // A pid that is not in the group belongs to no process, or to an unrelated process that got the same number.
        if !self.pids().contains(&pid) {
            return;
        }
        match pidfd_open(pid_of(pid), PidfdFlags::empty()) {
            Ok(process) if has_ended(&process, within) => {}
            Err(Errno::SRCH) => {}
            Ok(_) => panic!("process {pid} not gone within {within:?}\n{}", self.state()),
            Err(errno) => panic!("open a pidfd of {pid}: {errno}"),
        }
    }

    /// Waits until the first process has ended, and returns its exit status.
    #[track_caller]
    pub fn wait_exit(&self, within: Duration) -> ExitStatus {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = child.try_wait().expect("wait for our own child") {
            return status;
        }
        let process = pidfd_open(self.first, PidfdFlags::empty());
        if !has_ended(&process.expect("open a pidfd of our own child"), within) {
            panic!("the first process did not end within {within:?}\n{}", self.state());
        }
        child.wait().expect("wait for our own child")
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, within: Duration, look: impl FnMut(&Seen) -> Option<T>) -> T {
        match self.witness.wait(within, || self.pids().is_empty(), look) {
            Some(found) => found,
            None => panic!(
                "no {what} within {within:?}
{}",
                self.state()
            ),
        }
    }

    /// The state for a panic message: the living processes, the notifications, and the end of the log.
    fn state(&self) -> String {
        self.told.store(true, Relaxed);
        let mut text = format!("living processes: {:?}\n", self.pids());
        let seen = self.witness.seen();
        for Notification { pid, text: sent, .. } in &seen.notifications {
            let _ = writeln!(text, "notification of {pid}: {sent:?}");
        }
        let told = seen.lines.len().saturating_sub(LINES_TOLD);
        let _ = writeln!(text, "log from line {}:", told + 1);
        for line in &seen.lines[told..] {
            let _ = writeln!(text, "  {line}");
        }
        text
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.told.load(Relaxed) {
            eprintln!("{}", self.state());
        }
        let members = living(self.first).into_iter().map(pid_of);
        let members: Vec<OwnedFd> = members.filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).collect();
        // The kernel does not reuse the number of a process group that has a member.
        if !members.is_empty() {
            let _ = kill_process_group(self.first, Signal::KILL);
        }
        // Waits for the end of all members, because the next test may need their addresses.
        for process in &members {
            has_ended(process, Duration::from_secs(5));
        }
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.wait();
    }
}
