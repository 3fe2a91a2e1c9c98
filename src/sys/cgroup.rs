//! The limit and the use of memory of a process's cgroup (cgroups(7), version 1 and 2).
#![expect(clippy::disallowed_methods, reason = "procfs answers from the memory of the kernel")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::model::identity::Pid;

/// The memory limit that leaves a process the least room, and the memory use under that limit, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) limit: u64,
    /// Used by all processes under that limit, without the page cache of files, which the kernel gives up first.
    pub(crate) used: u64,
    /// Used by the cgroup of the process alone.
    pub(crate) own: u64,
    /// The folder of the cgroup that the limit is set on.
    pub(crate) folder: PathBuf,
}

/// The names of the files of one version.
#[derive(Debug, Clone, Copy)]
struct Names {
    limit: &'static str,
    used: &'static str,
    /// The fields of memory.stat for the page cache of files.
    cached: [&'static str; 2],
}

const V1: Names = Names {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cached: ["total_active_file", "total_inactive_file"],
};
const V2: Names = Names { limit: "memory.max", used: "memory.current", cached: ["active_file", "inactive_file"] };

/// The memory limit of a process (`None`: this process); `None` if there is no limit, or if it cannot be seen from
/// here.
///
/// # Errors
/// If the process is gone, or /proc is not there.
pub(crate) fn memory(pid: Option<Pid>) -> io::Result<Option<Memory>> {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(find(&groups, &mounts).and_then(|(names, top, folder)| narrowest(names, &top, &folder)))
}

/// The names of the files, the top of the tree that can be seen, and the folder of the cgroup that counts the memory.
fn find(groups: &str, mounts: &str) -> Option<(Names, PathBuf, PathBuf)> {
    let lines = || groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let has = |list: &str, name: &str| list.split(',').any(|one| one == name);
    // A controller is in one of the two versions; if version 1 lists the controller, it is there.
    let in_v1 = lines().find(|(controllers, _)| has(controllers, "memory"));
    let in_v2 = || lines().find(|(controllers, _)| controllers.is_empty());
    let (names, path) = match in_v1 {
        Some((_, path)) => (V1, path),
        None => (V2, in_v2()?.1),
    };
    let of_version = |kind: &str, options: &str| match in_v1 {
        Some(_) => kind == "cgroup" && has(options, "memory"),
        None => kind == "cgroup2",
    };
    mounts.lines().find_map(|line| {
        // proc_pid_mountinfo(5): … root, mount point, options, tags; a dash; type, source, options of the file system.
        let (place, system) = line.split_once(" - ")?;
        let (mut place, mut system) = (place.split(' ').skip(3), system.split(' '));
        let (root, top) = (place.next()?, Path::new(place.next()?));
        let below = if root == "/" { path } else { path.strip_prefix(root)? };
        let found = of_version(system.next()?, system.nth(1)?) && !below.contains("/..");
        found.then(|| (names, top.to_owned(), top.join(below.trim_start_matches('/'))))
    })
}

fn narrowest(names: Names, top: &Path, folder: &Path) -> Option<Memory> {
    /// Version 1 shows "no limit" as the largest number of whole pages.
    const ENDLESS: u64 = 1 << 62;
    let own = used(names, folder)?;
    let above = folder.ancestors().take_while(|folder| folder.starts_with(top));
    let limits = above.filter_map(|folder| {
        let limit = number(folder, names.limit).filter(|limit| *limit < ENDLESS)?;
        Some(Memory { limit, used: used(names, folder)?, own, folder: folder.to_owned() })
    });
    // An ancestor may leave less room than the cgroup itself, because other cgroups below it use memory too.
    limits.min_by_key(|memory| memory.limit.saturating_sub(memory.used))
}

fn used(names: Names, folder: &Path) -> Option<u64> {
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let value = |line: &str, name: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok();
    let cached: u64 = stat.lines().filter_map(|line| names.cached.iter().find_map(|name| value(line, name))).sum();
    Some(number(folder, names.used)?.saturating_sub(cached))
}

fn number(folder: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "40 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    fn folder(groups: &str, mounts: &str) -> Option<PathBuf> {
        find(groups, mounts).map(|(_, _, folder)| folder)
    }

    #[test]
    fn the_version_that_counts_memory_is_found() {
        let v1 = folder("8:pids:/x\n4:cpu,memory:/web\n0::/\n", MIXED);
        assert_eq!(v1, Some("/sys/fs/cgroup/memory/web".into()));
        let v2 = folder("0::/system.slice/web.service\n", "31 2 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(v2, Some("/sys/fs/cgroup/system.slice/web.service".into()));
    }

    #[test]
    fn what_is_mounted_is_a_part_of_the_tree_or_another_one() {
        let mounts = "31 2 0:1 /docker/a /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
        assert_eq!(folder("0::/docker/a/b\n", mounts), Some("/sys/fs/cgroup/b".into()));
        assert_eq!(folder("0::/docker/other\n", mounts), None);
        assert_eq!(folder("0::/../other\n", &mounts.replace("/docker/a", "/")), None);
    }

    #[test]
    fn the_narrowest_limit_counts_and_the_page_cache_does_not() {
        let place = tempfile::tempdir().expect("a folder");
        let inner = place.path().join("slice/unit");
        fs::create_dir_all(&inner).expect("folders");
        let write = |folder: &Path, limit: &str, used: &str| {
            fs::write(folder.join("memory.max"), limit).expect("written");
            fs::write(folder.join("memory.current"), used).expect("written");
        };
        write(&inner, "1000\n", "300\n");
        fs::write(inner.join("memory.stat"), "anon 100\ninactive_file 120\nactive_file 80\n").expect("written");
        let slice = inner.parent().expect("a slice").to_owned();
        write(&slice, "max\n", "5000\n");
        let unit = Memory { limit: 1000, used: 100, own: 100, folder: inner.clone() };
        assert_eq!(narrowest(V2, place.path(), &inner), Some(unit));
        write(&slice, "5200\n", "5000\n");
        let crowded = Memory { limit: 5200, used: 5000, own: 100, folder: slice };
        assert_eq!(narrowest(V2, place.path(), &inner), Some(crowded));
    }

    #[test]
    fn this_process_has_a_cgroup() {
        memory(None).expect("proc");
        assert!(memory(Some(Pid::new(0))).is_err());
    }
}
