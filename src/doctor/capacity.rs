//! Whether there is room for two generations side by side: memory and descriptors.

use std::io;

use super::finding::Finding;
use crate::model::identity::Pid;
use crate::sys::cgroup::{self, Memory};
use crate::sys::limits::{self, Descriptors, RESERVE};

/// A busy server uses up a limit that is lower than this.
const FEW: u64 = 4096;

/// The findings about the process of an instance; without a process, about this one, because a server started from here
/// would have the same limits.
pub(super) fn findings(server: Option<Pid>) -> Vec<Finding> {
    let descriptors = match server {
        Some(pid) => limits::descriptors_of(pid),
        None => Ok(limits::own_descriptors()),
    };
    vec![
        descriptors
            .map_or_else(|error| unseen("descriptors", &error), |found| judge_descriptors(&whose(server), found)),
        cgroup::memory(server).map_or_else(|error| unseen("memory", &error), |found| judge_memory(server, found)),
    ]
}

fn whose(server: Option<Pid>) -> String {
    server.map_or_else(|| "this user".to_owned(), |pid| format!("pid {pid}"))
}

fn unseen(subject: &str, error: &io::Error) -> Finding {
    Finding::note(subject, format!("the limits cannot be seen ({error})"), "run cutover doctor where the server runs")
}

/// Judges the limit of descriptors, also of a unit that does not run.
pub(super) fn judge_descriptors(whose: &str, found: Descriptors) -> Finding {
    const SUBJECT: &str = "descriptors";
    const FIX: &str = "LimitNOFILE=65536 in its unit; ulimit -n in a shell; docker run --ulimit nofile=65536";
    let Some(limit) = found.limit else { return Finding::ok(SUBJECT, format!("{whose} may have any number")) };
    match found.open {
        Some(open) if open.saturating_add(RESERVE) > limit => Finding::problem(
            SUBJECT,
            format!("{whose} has {open} of at most {limit} (RLIMIT_NOFILE): a reload needs some itself, and fails"),
            FIX,
        ),
        _ if limit < 2 * RESERVE => Finding::problem(
            SUBJECT,
            format!("{whose} may have {limit} (RLIMIT_NOFILE), which is hardly enough for a rollout alone"),
            FIX,
        ),
        _ if limit < FEW => Finding::note(
            SUBJECT,
            format!(
                "{whose} may have {limit} (RLIMIT_NOFILE): each generation takes some {} connections, and further ones \
                 wait in the accept queue",
                limit - RESERVE
            ),
            FIX,
        ),
        Some(open) => {
            Finding::ok(SUBJECT, format!("{whose} has {open} of at most {limit}; the limit holds for each generation"))
        }
        None => Finding::ok(SUBJECT, format!("{whose} may have {limit} for each generation")),
    }
}

fn judge_memory(server: Option<Pid>, found: Option<Memory>) -> Finding {
    const SUBJECT: &str = "memory";
    let Some(Memory { limit, used, own, folder }) = found else {
        return Finding::ok(SUBJECT, "the cgroup has no limit, or none that can be seen");
    };
    let (free, at) = (limit.saturating_sub(used), folder.display());
    let (size, own) = (mib(limit), (own, mib(own)));
    match server {
        _ if free >= own.0 => {
            Finding::ok(SUBJECT, format!("{} of {size} in use at {at}: room for a second generation", mib(used)))
        }
        Some(pid) => Finding::problem(
            SUBJECT,
            format!(
                "the cgroup of pid {pid} has {} in use, and {} of the limit of {size} at {at} are left: two generations \
                 live side by side in a reload, and the kernel kills one of them",
                own.1,
                mib(free)
            ),
            format!("a limit of {} or more (MemoryMax=, docker run --memory)", mib(limit + own.0 - free)),
        ),
        // How much of the memory belongs to a server is not known.
        None => Finding::note(
            SUBJECT,
            format!("{} of {size} in use at {at}: a second generation that needs as much would not fit", mib(used)),
            "use --unit or --listen to check the server itself",
        ),
    }
}

fn mib(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    let whole = bytes.div_ceil(MIB);
    if whole < 100 { format!("{}.{} MiB", bytes / MIB, bytes % MIB * 10 / MIB) } else { format!("{whole} MiB") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn descriptors_are_few_or_used_up_or_enough() {
        for (limit, open, level) in [
            (None, None, Level::Ok),
            (Some(65536), Some(100), Level::Ok),
            (Some(65536), None, Level::Ok),
            (Some(1024), Some(10), Level::Note),
            (Some(1024), Some(1000), Level::Problem),
            (Some(100), None, Level::Problem),
        ] {
            assert_eq!(judge_descriptors("pid 1", Descriptors { limit, open }).level, level, "{limit:?} {open:?}");
        }
    }

    #[test]
    fn memory_must_hold_two() {
        let memory = |limit, used, own| Some(Memory { limit, used, own, folder: "/sys/fs/cgroup/web".into() });
        let server = Some(Pid::new(7));
        assert_eq!(judge_memory(server, None).level, Level::Ok);
        assert_eq!(judge_memory(server, memory(200 << 20, 90 << 20, 90 << 20)).level, Level::Ok);
        let tight = judge_memory(server, memory(64 << 20, 40 << 20, 40 << 20));
        assert_eq!(tight.level, Level::Problem);
        assert!(tight.fix.as_deref().is_some_and(|fix| fix.contains("80.0 MiB")), "{tight:?}");
        assert_eq!(judge_memory(None, memory(64 << 20, 40 << 20, 40 << 20)).level, Level::Note);
        assert_eq!(judge_memory(server, memory(1 << 40, 1 << 40, 1 << 20)).level, Level::Problem, "others use it up");
    }
}
