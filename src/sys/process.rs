//! Processes, held by pidfd so that none is mistaken for a later one with the same pid.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{during, exit_info};
use crate::model::identity::Pid;

/// A service manager has reaped what has ended by then; an older kernel does not tell it ever.
const REAPED: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(2);

/// A process that this one has spawned: its own child, or its parent's.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pidfd: OwnedFd,
}

impl Process {
    /// Holds a child that was just spawned, and that nobody has reaped.
    ///
    /// # Errors
    /// What pidfd_open(2) says (Linux 5.3); the child is ended then.
    pub(super) fn hold(child: rustix::process::Pid) -> io::Result<Process> {
        match pidfd_open(child, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Process { pid: Pid::new(child.as_raw_nonzero().get().unsigned_abs()), pidfd }),
            Err(error) => {
                // A child that cannot be held is not left behind.
                let _ = rustix::process::kill_process(child, Signal::KILL);
                let _ = waitid(WaitId::Pid(child), WaitIdOptions::EXITED);
                Err(during("open a pidfd", error))
            }
        }
    }

    /// Holds one that was spawned together with its pidfd.
    pub(super) fn of(pid: Pid, pidfd: OwnedFd) -> Process {
        Process { pid, pidfd }
    }

    /// Ends it with SIGKILL. One that is gone already is left as it is.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Sends it a signal. One that is gone does not get it.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Waits until it has ended. Needs a tokio runtime. Cancel safe.
    pub(crate) async fn gone(&self) {
        ended(&self.pidfd).await;
    }

    /// Reaps it, and says how it has ended; `None` while it runs.
    ///
    /// # Errors
    /// `ECHILD` if it is for somebody else to reap, or was.
    pub(crate) fn reap(&self) -> io::Result<Option<String>> {
        let ended = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
        Ok(ended.map(|status| describe(status.exit_status(), status.terminating_signal())))
    }

    /// How one has ended that is gone, and for somebody else to reap: waits for that for a moment, if the kernel can tell
    /// at all. Needs a tokio runtime. Cancel safe.
    pub(crate) async fn told_end(&self) -> String {
        let by = tokio::time::Instant::now() + REAPED;
        loop {
            match exit_info::of(&self.pidfd) {
                Some(status) => return describe(status.code(), status.signal()),
                None if tokio::time::Instant::now() < by => tokio::time::sleep(LOOK).await,
                None => return describe(None, None),
            }
        }
    }

    /// Holds it a second time, for those who do not reap it.
    pub(crate) fn try_clone(&self) -> Option<HeldProcess> {
        self.pidfd.try_clone().ok().map(HeldProcess)
    }

    /// Becomes readable when it ends. Needs a tokio runtime.
    pub(crate) fn end(&self) -> io::Result<AsyncFd<OwnedFd>> {
        self.pidfd.try_clone().and_then(watch)
    }
}

fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd answers with the same open descriptor for as long as it lives, and it moves into the AsyncFd.
    unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.map_err(|e| during("watch a pidfd", e))
}

async fn ended(pidfd: &OwnedFd) {
    let Ok(end) = pidfd.try_clone().and_then(watch) else { return };
    // An error is one of the runtime that shuts down.
    let _ = end.readable().await;
}

/// A process of which only the pid was told: held from now on, so that a later one with the same pid is not meant. Whether
/// it is the one that was meant when it was told, another look at it must show before it is signalled.
#[derive(Debug)]
pub(crate) struct HeldProcess(OwnedFd);

impl HeldProcess {
    /// Holds it; `None` if it is gone.
    pub(crate) fn hold(pid: Pid) -> Option<HeldProcess> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid.number()).ok()?)?;
        pidfd_open(pid, PidfdFlags::empty()).ok().map(HeldProcess)
    }

    /// Sends it a signal; `false` if it is gone.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        pidfd_send_signal(&self.0, signal).is_ok()
    }

    /// Waits until it is gone, and with it every descriptor that it had: `exit_files` comes before `exit_notify` in do_exit
    /// (kernel/exit.c, Linux 6.18). Needs a tokio runtime. Cancel safe.
    pub(crate) async fn gone(&self) {
        ended(&self.0).await;
    }

    /// Holds it a second time.
    pub(crate) fn try_clone(&self) -> Option<HeldProcess> {
        self.0.try_clone().ok().map(HeldProcess)
    }

    pub(crate) fn is_alive(&self) -> bool {
        let mut fds = [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&now)) == Ok(0)
    }
}

/// Whether processes can be held, and signalled, by pidfd: tried on this process, with no signal.
///
/// # Errors
/// `ENOSYS` from a kernel before Linux 5.3 or a sandbox, `EPERM` from a seccomp filter.
pub(crate) fn try_pidfd() -> io::Result<()> {
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).map_err(|e| during("pidfd_open", e))?;
    let (no_signal, no_flags) = (0 as libc::c_int, 0 as libc::c_uint);
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open; signal 0 is none (kill(2)); a null pointer stands for the usual siginfo_t.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, own.as_raw_fd(), no_signal, no_info, no_flags) };
    match result {
        0 => Ok(()),
        _ => Err(during("pidfd_send_signal", io::Error::last_os_error())),
    }
}

/// How a process ended, for people.
pub(super) fn describe(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
            format!("was killed by {name} ({signal})")
        }
        (None, None) => "ended".to_owned(),
    }
}
