//! The number of descriptors that a process may have.
#![expect(clippy::disallowed_methods, reason = "procfs answers from the memory of the kernel")]

use std::fs;
use std::io;

use rustix::process::{Resource, getrlimit};

use crate::model::identity::Pid;

/// Descriptors that stay free for the rollout itself (netlink, notify, handover, pidfd) and for the application's files.
pub(crate) const RESERVE: u64 = 64;

/// The number of connections that the limit of descriptors (RLIMIT_NOFILE, getrlimit(2)) leaves room for; at least 1.
pub(crate) fn connections_by_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = if limit > 2 * RESERVE { limit - RESERVE } else { limit / 2 };
    usize::try_from(room).unwrap_or(usize::MAX).max(1)
}

/// The descriptors of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// The soft limit, which is the one that counts; `None` if there is no limit.
    pub(crate) limit: Option<u64>,
    /// The number of open descriptors; `None` if it is not known.
    pub(crate) open: Option<u64>,
}

/// The descriptors of another process (proc_pid_limits(5)).
///
/// # Errors
/// `ENOENT` if the process is gone.
pub(crate) fn descriptors_of(pid: Pid) -> io::Result<Descriptors> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok().map(|fds| fds.count() as u64);
    Ok(Descriptors { limit: soft_limit(&limits), open })
}

/// The limit of this process. Its open descriptors are not counted, because there are hardly any.
pub(crate) fn own_descriptors() -> Descriptors {
    Descriptors { limit: getrlimit(Resource::Nofile).current, open: None }
}

fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_show_the_same_limit() {
        let own = descriptors_of(Pid::new(std::process::id())).expect("it lives");
        assert_eq!(own.limit, own_descriptors().limit);
        assert!(own.open.is_some_and(|open| open > 2), "{own:?}");
    }

    #[test]
    fn no_limit_is_none() {
        assert_eq!(
            soft_limit("Max open files            1024                 524288               files\n"),
            Some(1024)
        );
        assert_eq!(soft_limit("Max open files            unlimited            unlimited            files\n"), None);
    }
}
