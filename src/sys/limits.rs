//! How many descriptors this process may have.

use rustix::process::{Resource, getrlimit};

/// Descriptors that stay free for the rollout itself (netlink, notify, handover, pidfd) and for the application's files.
const RESERVE: u64 = 64;

/// As many connections as the limit of descriptors (RLIMIT_NOFILE, getrlimit(2)) leaves room for; at least 1.
pub(crate) fn connections_by_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = if limit > 2 * RESERVE { limit - RESERVE } else { limit / 2 };
    usize::try_from(room).unwrap_or(usize::MAX).max(1)
}
