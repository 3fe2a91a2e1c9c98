//! The processes of a container, seen from outside: proc_pid_status(5).

use std::fs;
use std::path::Path;

/// A process of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The pid inside the container.
    pub pid: u32,
    /// The pid of the parent inside the container; 0 if the parent is outside.
    pub parent: u32,
    pub name: String,
    /// The state of the process. `Z` is a zombie.
    pub state: char,
    pub uid: u32,
    /// The resident memory in bytes (VmRSS).
    pub resident: u64,
}

/// The processes in the same pid namespace as `first`, which is a pid of this /proc.
pub(super) fn beside(proc: &Path, first: u32) -> Vec<Process> {
    let namespace = |pid: &str| fs::read_link(proc.join(pid).join("ns/pid")).ok();
    let Some(wanted) = namespace(&first.to_string()) else { return Vec::new() };
    let entries = fs::read_dir(proc).expect("read the engine's /proc");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    // A process that has ended meanwhile has no namespace.
    let pids = names.filter(|name| name.parse::<u32>().is_ok() && namespace(name).as_ref() == Some(&wanted));
    let status = |pid: String| fs::read_to_string(proc.join(pid).join("status")).ok();
    let found: Vec<(u32, u32, Process)> = pids.filter_map(|pid| parse(&status(pid)?)).collect();
    let inside = |outer: u32| found.iter().find(|(pid, ..)| *pid == outer).map_or(0, |(.., process)| process.pid);
    let processes = found.iter().map(|(_, parent, process)| Process { parent: inside(*parent), ..process.clone() });
    let mut processes: Vec<Process> = processes.collect();
    processes.sort_by_key(|process| process.pid);
    processes
}

/// The pid of the process and that of its parent, both outside the container, and the process.
fn parse(status: &str) -> Option<(u32, u32, Process)> {
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
    let number = |key: &str| value(key)?.split_whitespace().next()?.parse().ok();
    let process = Process {
        pid: value("NSpid")?.split_whitespace().last()?.parse().ok()?,
        parent: 0,
        name: value("Name")?.to_owned(),
        state: value("State")?.chars().next()?,
        uid: number("Uid")?,
        // A zombie has no VmRSS.
        resident: u64::from(number("VmRSS").unwrap_or(0)) * 1024,
    };
    Some((number("Pid")?, number("PPid")?, process))
}
