//! The attributes of a process that execve(2) preserves and that an application may change at any time: limits,
//! processors, nice value, umask, ignored signals, and others.
#![allow(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "procfs answers from the memory of the kernel")]

use std::fs;
use std::num::NonZeroU64;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, getpid, getpriority_process, getrlimit, setpgid, setpriority_process};
use rustix::process::{setrlimit, umask};
use rustix::thread::{current_timer_slack, set_current_timer_slack};

use super::affinity::Affinity;

/// All limits of getrlimit(2).
const LIMITS: [Resource; 16] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Locks,
    Resource::Sigpending,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Rtprio,
    Resource::Rttime,
];
/// proc_pid_oom_score_adj(5)
const OOM_SCORE_ADJ: &std::ffi::CStr = c"/proc/self/oom_score_adj";

/// The attributes of one process. `None` stands for an attribute that cannot be read, and is not restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    limits: [Rlimit; LIMITS.len()],
    affinity: Option<Affinity>,
    nice: Option<i32>,
    umask: Option<Mode>,
    /// As the kernel writes it, so that the child of a spawn can write it without an allocation.
    oom_score_adj: Option<String>,
    timer_slack: Option<NonZeroU64>,
    ignored: Ignored,
    group: Option<Pid>,
}

impl Attributes {
    /// Reads the attributes of this process. Those that each thread has for itself are those of the main thread, but
    /// for the timer slack, which a thread can read only of itself (PR_GET_TIMERSLACK(2const)).
    pub(super) fn capture() -> Attributes {
        Attributes::of(Some(getpid()))
    }

    /// Reads the attributes that a child inherits from the calling thread.
    pub(super) fn inherited() -> Attributes {
        Attributes::of(None)
    }

    /// `None` stands for the calling thread.
    fn of(thread: Option<Pid>) -> Attributes {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let oom_score_adj = fs::read_to_string("/proc/self/oom_score_adj").ok();
        Attributes {
            limits: LIMITS.map(getrlimit),
            affinity: Affinity::of(thread),
            nice: getpriority_process(thread).ok(),
            umask: umask_in(&status),
            oom_score_adj: oom_score_adj.map(|text| text.trim().to_owned()),
            timer_slack: current_timer_slack().ok().and_then(NonZeroU64::new),
            ignored: Ignored::in_status(&status),
            group: group(),
        }
    }

    /// Whether the process ignores the signal. Always false for SIGPIPE: Rust's runtime ignores SIGPIPE before `main`
    /// (library/std/src/sys/pal/unix/mod.rs, `reset_sigpipe`), so what it was before cannot be seen. A next generation
    /// in Rust ignores SIGPIPE anew, and a program in another language expects the default.
    pub(super) fn ignores(&self, signal: libc::c_int) -> bool {
        signal != libc::SIGPIPE && self.ignored.has(signal)
    }

    /// Gives the calling process, which has only one thread and has `inherited` its attributes, the attributes of
    /// `self`, but for the ignored signals and the timer slack. An attribute that may not be set (a nice value that was
    /// lower, a hard limit that was higher, without privilege) is left as it is.
    ///
    /// Makes system calls only, and only those that change something: a seccomp filter may kill the caller for
    /// setpriority(2) or sched_setaffinity(2), which are in the group `@resources` of systemd.
    pub(super) fn restore(&self, inherited: &Attributes) {
        for ((resource, limit), now) in LIMITS.into_iter().zip(self.limits).zip(inherited.limits) {
            if limit != now && setrlimit(resource, limit) == Err(Errno::PERM) {
                let _ = setrlimit(resource, within(limit, now));
            }
        }
        if let Some(affinity) = self.affinity.filter(|_| self.affinity != inherited.affinity) {
            affinity.restore();
        }
        // After the limits, because RLIMIT_NICE may allow a lower value.
        if let Some(nice) = self.nice.filter(|_| self.nice != inherited.nice) {
            let _ = setpriority_process(None, nice);
        }
        // Not compared: a thread may have a umask of its own (CLONE_FS in unshare(2)).
        if let Some(mask) = self.umask {
            umask(mask);
        }
        if let Some(text) = self.oom_score_adj.as_ref().filter(|_| self.oom_score_adj != inherited.oom_score_adj) {
            // A process that shares its memory with another one sets only its own value, if the other one waits for it
            // as in vfork(2) (`__set_oom_adj` in fs/proc/base.c, Linux 6.18).
            if let Ok(file) = rustix::fs::open(OOM_SCORE_ADJ, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
                let _ = rustix::io::write(&file, text.as_bytes());
            }
        }
    }

    /// Puts the calling process, which has `inherited` its attributes, into the process group of `self`. Does nothing
    /// if the group is gone, or belongs to another session.
    pub(super) fn restore_group(&self, inherited: &Attributes) {
        if let Some(group) = self.group.filter(|_| self.group != inherited.group) {
            let _ = setpgid(None, Some(group));
        }
    }

    /// Gives the calling thread the timer slack of `self`, until the guard is dropped. A child inherits the value, as
    /// its default as well (PR_SET_TIMERSLACK(2const)); in the child only the value could be set.
    pub(super) fn timer_slack(&self) -> Option<TimerSlack> {
        let before = current_timer_slack().ok().and_then(NonZeroU64::new);
        let slack = self.timer_slack.filter(|_| self.timer_slack != before)?;
        set_current_timer_slack(Some(slack)).ok().map(|()| TimerSlack { before })
    }
}

/// A changed timer slack of the calling thread.
pub(super) struct TimerSlack {
    before: Option<NonZeroU64>,
}

impl Drop for TimerSlack {
    fn drop(&mut self) {
        let _ = set_current_timer_slack(self.before);
    }
}

/// The limit nearest to `limit` that needs no privilege: a hard limit cannot be raised, and bounds the soft one.
fn within(limit: Rlimit, now: Rlimit) -> Rlimit {
    let current = match (limit.current, now.maximum) {
        (Some(soft), Some(hard)) => Some(soft.min(hard)),
        (soft, hard) => soft.or(hard),
    };
    Rlimit { current, maximum: now.maximum }
}

/// The process group of this process; `None` if the group is outside of this PID namespace, as that of a container's
/// first process may be. (rustix takes the group for a PID, which is never 0.)
fn group() -> Option<Pid> {
    // SAFETY: the call takes no argument, and cannot fail.
    Pid::from_raw(unsafe { libc::getpgrp() })
}

/// The umask in the text of /proc/PID/status (proc_pid_status(5), since Linux 4.7).
fn umask_in(status: &str) -> Option<Mode> {
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok().map(Mode::from_raw_mode)
}

/// The signals that a process ignores: bit 0 stands for signal 1. Some architectures have 128 signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ignored(u128);

impl Ignored {
    /// The signals in the text of /proc/PID/status; none if the text does not name them.
    fn in_status(status: &str) -> Ignored {
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        Ignored(line.and_then(|line| u128::from_str_radix(line.trim(), 16).ok()).unwrap_or(0))
    }

    fn has(self, signal: libc::c_int) -> bool {
        let bit = u32::try_from(signal - 1).ok().and_then(|bit| 1_u128.checked_shl(bit));
        bit.is_some_and(|bit| self.0 & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attributes_of_this_process_can_be_read() {
        let own = Attributes::capture();
        assert!(own.affinity.is_some() && own.nice.is_some() && own.umask.is_some(), "{own:?}");
        assert!(own.oom_score_adj.is_some() && own.timer_slack.is_some(), "{own:?}");
        assert!(own.ignored.has(libc::SIGPIPE), "Rust's runtime ignores it");
        assert!(!own.ignores(libc::SIGPIPE));
        assert_eq!(own, Attributes::capture());
    }

    #[test]
    fn a_timer_slack_is_given_back() {
        std::thread::spawn(|| {
            let before = current_timer_slack();
            let other = NonZeroU64::new(123_456).expect("not zero");
            let slack = Attributes { timer_slack: Some(other), ..Attributes::inherited() }.timer_slack();
            assert_eq!(current_timer_slack(), Ok(other.get()));
            drop(slack);
            assert_eq!(current_timer_slack(), before);
            assert!(Attributes::inherited().timer_slack().is_none(), "nothing is to be changed");
        })
        .join()
        .expect("no panic");
    }

    #[test]
    fn status_names_the_umask_and_the_ignored_signals() {
        let status = "Name:\tserver\nUmask:\t0027\nSigBlk:\t0000000000000001\nSigIgn:\t8000000000001001\n";
        assert_eq!(umask_in(status), Some(Mode::from_raw_mode(0o027)));
        let ignored = Ignored::in_status(status);
        let all: Vec<_> = (-1..200).filter(|signal| ignored.has(*signal)).collect();
        assert_eq!(all, [1, 13, 64]);
        assert_eq!(umask_in("Name:\tserver\n"), None);
        assert_eq!(Ignored::in_status("SigIgn:\t?\n"), Ignored(0));
        // 128 signals.
        let many = Ignored::in_status("SigIgn:\t80000000000000000000000000000000\n");
        assert!(many.has(128) && !many.has(127));
    }

    #[test]
    fn a_limit_without_privilege_is_bounded_by_the_hard_limit_of_now() {
        let limit = |current, maximum| Rlimit { current, maximum };
        let lowered = limit(Some(100), Some(512));
        assert_eq!(within(limit(Some(1024), Some(4096)), lowered), limit(Some(512), Some(512)));
        assert_eq!(within(limit(Some(64), None), lowered), limit(Some(64), Some(512)));
        assert_eq!(within(limit(None, None), lowered), limit(Some(512), Some(512)));
        assert_eq!(within(limit(Some(64), Some(64)), limit(None, None)), limit(Some(64), None));
        assert_eq!(within(limit(None, None), limit(None, None)), limit(None, None));
    }
}
