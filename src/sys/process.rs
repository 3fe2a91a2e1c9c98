//! Processes, held by pidfd so that a process is not mistaken for a later one with the same pid.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{during, exit_info};
use crate::model::identity::Pid;

/// How long to wait for an exit status: by then a service manager has reaped the process. An older kernel never shows
/// the status.
const REAPED: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(2);

/// A process that this process has spawned, as its own child or as a child of its parent.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pidfd: OwnedFd,
}

impl Process {
    /// Holds a child that was just spawned, and that has not been reaped.
    ///
    /// # Errors
    /// The error of pidfd_open(2) (Linux 5.3); the child is ended then.
    pub(super) fn hold(child: rustix::process::Pid) -> io::Result<Process> {
        match pidfd_open(child, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Process::of(child, pidfd)),
            Err(error) => {
                // A child that cannot be held is not left behind.
                let _ = rustix::process::kill_process(child, Signal::KILL);
                let _ = waitid(WaitId::Pid(child), WaitIdOptions::EXITED);
                Err(during("open a pidfd", error))
            }
        }
    }

    /// Holds a process that was spawned together with its pidfd.
    pub(super) fn of(child: rustix::process::Pid, pidfd: OwnedFd) -> Process {
        Process { pid: Pid::new(child.as_raw_nonzero().get().unsigned_abs()), pidfd }
    }

    /// Waits for the end of a child that has begun to end, and reaps the child. Blocks. Does nothing if the process is
    /// not for the caller to reap.
    pub(super) fn wait(&self) {
        let _ = retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED));
    }

    /// Ends the process with SIGKILL. Does nothing if the process is gone.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Sends the process a signal. Does nothing if the process is gone.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Waits until the process has ended. Needs a tokio runtime. Cancel safe.
    pub(crate) async fn gone(&self) {
        ended(&self.pidfd).await;
    }

    /// Reaps the process, and says how it has ended; `None` while it runs.
    ///
    /// # Errors
    /// `ECHILD` if the process is not for the caller to reap, or has been reaped already.
    pub(crate) fn reap(&self) -> io::Result<Option<String>> {
        let ended = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
        Ok(ended.map(|status| describe(status.exit_status(), status.terminating_signal())))
    }

    /// How a process ended that is gone and has another reaper. Waits up to 500 ms for the exit status, which not every
    /// kernel shows. Needs a tokio runtime. Cancel safe.
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

    /// A second handle, for code that does not reap the process.
    pub(crate) fn try_clone(&self) -> Option<HeldProcess> {
        self.pidfd.try_clone().ok().map(HeldProcess)
    }

    /// A descriptor that becomes readable when the process ends. Needs a tokio runtime.
    pub(crate) fn end(&self) -> io::Result<AsyncFd<OwnedFd>> {
        self.pidfd.try_clone().and_then(watch)
    }
}

fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd returns the same open descriptor for as long as it lives, and it moves into the AsyncFd.
    unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.map_err(|e| during("watch a pidfd", e))
}

async fn ended(pidfd: &OwnedFd) {
    let Ok(end) = pidfd.try_clone().and_then(watch) else { return };
    // `readable` fails only when the runtime shuts down.
    let _ = end.readable().await;
}

/// A process that was known by its pid only. From now on the handle never refers to a later process with the same pid.
/// The pid may have been reused before that: before the process is signalled, another look at it must show that it is
/// the process that was meant.
#[derive(Debug)]
pub(crate) struct HeldProcess(OwnedFd);

impl HeldProcess {
    /// Holds the process `pid`; `None` if the process is gone.
    pub(crate) fn hold(pid: Pid) -> Option<HeldProcess> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid.number()).ok()?)?;
        pidfd_open(pid, PidfdFlags::empty()).ok().map(HeldProcess)
    }

    /// Sends the process a signal; `false` if the process is gone.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        pidfd_send_signal(&self.0, signal).is_ok()
    }

    /// Waits until the process is gone, and with it every descriptor that it had: `exit_files` comes before
    /// `exit_notify` in do_exit (kernel/exit.c, Linux 6.18). Needs a tokio runtime. Cancel safe.
    pub(crate) async fn gone(&self) {
        ended(&self.0).await;
    }

    /// A second handle of the same process.
    pub(crate) fn try_clone(&self) -> Option<HeldProcess> {
        self.0.try_clone().ok().map(HeldProcess)
    }

    pub(crate) fn is_alive(&self) -> bool {
        let mut fds = [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&now)) == Ok(0)
    }
}

/// Whether pidfds can hold and signal processes: tried on this process, with no signal.
///
/// # Errors
/// `ENOSYS` from a kernel before Linux 5.3 or a sandbox, `EPERM` from a seccomp filter.
pub(crate) fn try_pidfd() -> io::Result<()> {
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).map_err(|e| during("pidfd_open", e))?;
    let (no_signal, no_flags) = (0 as libc::c_int, 0 as libc::c_uint);
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open; signal 0 sends nothing (kill(2)); a null pointer stands for the usual siginfo_t.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, own.as_raw_fd(), no_signal, no_info, no_flags) };
    match result {
        0 => Ok(()),
        _ => Err(during("pidfd_send_signal", io::Error::last_os_error())),
    }
}

/// How a process ended, as text for users.
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
