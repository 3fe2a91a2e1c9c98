//! The processors that a thread may run on.
#![expect(clippy::disallowed_methods, reason = "procfs and sysfs answer from the memory of the kernel")]

use std::fs;
use std::path::Path;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors of one thread, up to 1,024 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affinity {
    /// All that the cpuset of the thread's cgroup allows: nobody has chosen among them.
    All,
    /// Those that the thread, or a process before, has chosen.
    Chosen(CpuSet),
}

impl Affinity {
    /// The processors of a thread of this process (`None`: the calling thread).
    pub(super) fn of(thread: Option<Pid>) -> Option<Affinity> {
        let own = sched_getaffinity(thread).ok()?;
        Some(if allowed() == Some(own) { Affinity::All } else { Affinity::Chosen(own) })
    }

    /// Gives the calling thread these processors, as far as its cpuset allows them. Makes one system call.
    ///
    /// The kernel remembers the processors that are asked for, and applies each later cpuset to them
    /// (`restrict_cpus_allowed_ptr` and `user_cpus_ptr` in kernel/sched/core.c, Linux 6.2). So a process that had all
    /// asks for all: the processors of one moment would keep the process from those that its cpuset gets later.
    pub(super) fn restore(self) {
        let cpus = match self {
            Affinity::All => every(),
            Affinity::Chosen(cpus) => cpus,
        };
        let _ = sched_setaffinity(None, &cpus);
    }
}

fn every() -> CpuSet {
    let mut cpus = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| cpus.set(cpu));
    cpus
}

/// The processors that this process may use unless it chooses among them: those of its cpuset (cgroups(7), version 2),
/// or else all that are online. `None` if neither can be seen.
fn allowed() -> Option<CpuSet> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let folder = Path::new("/sys/fs/cgroup").join(group);
    // A cgroup without a cpuset of its own has that of the one above.
    let of_cgroup = folder.ancestors().map(|folder| fs::read_to_string(folder.join("cpuset.cpus.effective")));
    let list = of_cgroup.flatten().next();
    list.or_else(|| fs::read_to_string("/sys/devices/system/cpu/online").ok()).and_then(|list| parse(&list))
}

/// A list as in cpuset(7): `0-3,7`.
fn parse(list: &str) -> Option<CpuSet> {
    let mut cpus = CpuSet::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= CpuSet::MAX_CPU {
            return None;
        }
        (first..=last).for_each(|cpu| cpus.set(cpu));
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(list: &str) -> Option<Vec<usize>> {
        parse(list).map(|cpus| (0..CpuSet::MAX_CPU).filter(|cpu| cpus.is_set(*cpu)).collect())
    }

    #[test]
    fn a_list_of_processors() {
        assert_eq!(numbers("0-3,7\n"), Some(vec![0, 1, 2, 3, 7]));
        assert_eq!(numbers("5"), Some(vec![5]));
        for wrong in ["", "0-", "a", "0,,1", "0-1024", "0-18446744073709551615"] {
            assert_eq!(numbers(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_thread_that_has_chosen_is_told_from_one_that_has_not_and_can_have_all_again() {
        std::thread::spawn(|| {
            Affinity::All.restore();
            let all = sched_getaffinity(None).expect("readable");
            // In a cpuset that cannot be seen from here, all processors look like a choice.
            let expected = if allowed() == Some(all) { Affinity::All } else { Affinity::Chosen(all) };
            assert_eq!(Affinity::of(None), Some(expected));
            let mut one = CpuSet::new();
            one.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).expect("one"));
            Affinity::Chosen(one).restore();
            assert_eq!(sched_getaffinity(None), Ok(one));
            if all.count() > 1 {
                assert_eq!(Affinity::of(None), Some(Affinity::Chosen(one)));
            }
            Affinity::All.restore();
            assert_eq!(sched_getaffinity(None), Ok(all));
        })
        .join()
        .expect("no panic");
    }
}
