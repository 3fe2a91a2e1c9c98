//! Figures of the kernel about a process, and about the machine.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::{read_dir, read_to_string};
use std::time::Duration;

/// The CPU time of all living threads, from /proc/PID/task/TID/schedstat, which counts in nanoseconds. /proc/PID/stat
/// counts in units of 10 ms.
///
/// # Panics
/// If the process has ended, or the kernel does not report the time (CONFIG_SCHED_INFO).
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let threads = read_dir(format!("/proc/{pid}/task")).expect("list the threads of a server");
    let nanoseconds = threads.map(|thread| {
        let path = thread.expect("list the threads of a server").path().join("schedstat");
        // A thread that has just ended has no file, and counts as 0.
        let text = read_to_string(path).unwrap_or_default();
        text.split_whitespace().next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0)
    });
    let sum = Duration::from_nanos(nanoseconds.sum());
    assert!(!sum.is_zero(), "the kernel does not tell the CPU time of process {pid}");
    sum
}

/// The memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident: f64,
    pub(crate) anonymous: f64,
}

impl Memory {
    /// VmRSS and RssAnon of /proc/PID/status, as smaps_rollup counts them. The values in /proc/PID/status lag behind by
    /// up to dozens of pages for each CPU (proc_pid_status(5)).
    ///
    /// # Panics
    /// If the process has ended.
    pub(crate) fn of(pid: u32) -> Memory {
        let text = read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("read the memory of a server");
        let kilobytes = |name: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
            value.unwrap_or_else(|| panic!("no {name} in smaps_rollup: {text}"))
        };
        Memory { resident: kilobytes("Rss:") * 1024.0, anonymous: kilobytes("Anonymous:") * 1024.0 }
    }
}

/// Raises the limit of descriptors, because thousands of connections are open at once, in this process and in its
/// children, which inherit the limit.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // The limit is raised only as far as needed. An error is ignored, because the section that needs the descriptors
    // reports it.
    let enough = limit.maximum.map_or(16_384, |most| most.min(16_384));
    if limit.current.is_some_and(|now| now < enough) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(enough), maximum: limit.maximum });
    }
}

/// The conditions on which the figures depend.
pub(crate) fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |path: &str| read_to_string(path).unwrap_or_default().trim().to_owned();
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split(' ').take(1).collect();
    format!(
        "cutover {} on Linux {}, {cpus} CPUs shared by server and client, load average before {}",
        env!("CARGO_PKG_VERSION"),
        read("/proc/sys/kernel/osrelease"),
        load.concat(),
    )
}
