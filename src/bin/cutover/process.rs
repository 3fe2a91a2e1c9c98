//! The processes of an instance, held by pidfd, so that a later process with the same number is not mistaken for one of
//! them.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use cutover::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::exit::{Failure, UNAVAILABLE};

/// A process that lived when it was looked up.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pidfd: OwnedFd,
}

impl Process {
    /// Holds the process; `None` if it is gone already, or in a pid namespace that cannot be seen from here.
    pub(crate) fn hold(pid: Pid) -> Result<Option<Process>, Failure> {
        let number = i32::try_from(pid.number()).ok().and_then(rustix::process::Pid::from_raw);
        let Some(number) = number else { return Ok(None) };
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Some(Process { pid, pidfd })),
            Err(Errno::SRCH) => Ok(None),
            Err(errno) => Err(Failure::new(UNAVAILABLE, format!("cannot watch process {pid}: {errno}"))),
        }
    }
}

/// Waits until all these processes are gone, and returns the processes that are left after this time.
pub(crate) fn wait(mut living: Vec<Process>, time: Duration) -> Vec<Process> {
    let by = Instant::now() + time;
    while !living.is_empty() {
        let left = by.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut fds: Vec<_> = living.iter().map(|process| PollFd::new(&process.pidfd, PollFlags::IN)).collect();
        // An interrupted poll(2) changes nothing: no process is gone because of the interruption.
        let _ = poll(&mut fds, Some(&timeout));
        let mut lives = fds.iter().map(|fd| fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
        living.retain(|_| lives.next().unwrap_or(true));
        if left.is_zero() {
            break;
        }
    }
    living
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn who_is_gone_is_told_from_who_is_not() {
        let cat = || Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat");
        let (mut one, mut two) = (cat(), cat());
        let held = [&one, &two].map(|child| Process::hold(Pid::new(child.id())).expect("pidfd").expect("lives"));
        let living = wait(held.into(), Duration::ZERO);
        assert_eq!(living.len(), 2);
        drop(one.stdin.take());
        one.wait().expect("ours");
        let living = wait(living, Duration::from_millis(1));
        assert_eq!(living.iter().map(|process| process.pid.number()).collect::<Vec<_>>(), [two.id()]);
        drop(two.stdin.take());
        assert!(wait(living, Duration::from_secs(10)).is_empty());
        two.wait().expect("ours");
        assert!(Process::hold(Pid::new(two.id())).expect("no error").is_none());
        assert!(Process::hold(Pid::new(0)).expect("no error").is_none());
    }
}
