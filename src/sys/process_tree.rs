//! The descent of processes: the processes of a supervised program, its orphans included.
#![expect(
    clippy::disallowed_methods,
    reason = "whoever calls it is asked instead: `living` and `kill` are disallowed themselves"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::Signal;

use super::process::HeldProcess;
use super::reaper::Spawned;
use crate::model::identity::Pid;

/// All processes, as /proc/PID/stat shows them (proc_pid_stat(5)).
///
/// They are read one after the other: a process that is born, or loses its parent, in the meantime can be missing. Code
/// that ends a tree takes further snapshots until no process is left: [`living`], [`kill`].
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    processes: BTreeMap<Pid, Stat>,
    own: Pid,
    /// Orphans among the descendants of this process become its children, and not those of the first process
    /// (PR_SET_CHILD_SUBREAPER(2const)).
    adopts: bool,
}

/// The maximum number of looks: a look is repeated if a process ended before it was known what the process was.
const LOOKS: usize = 10;
/// The number of consecutive looks that must find no process.
const NOBODY: usize = 3;
/// The maximum number of looks for a tree that is being killed: a process forked meanwhile is in the next list.
const KILLS: usize = 100;
/// The pause between two such looks: a killed process takes a moment to be gone.
const PAUSE: Duration = Duration::from_millis(2);

/// The living processes of the tree that was begun by `root`: `root` itself and its descendants; and each orphan that
/// was started with `marker` (`NAME=value`) in its environment and was adopted by this process (or by the first
/// process, where this process is no subreaper), with its descendants. Never this process itself. A process is not
/// missed because its parent ended just now.
/// The environment is the one that a process was started with (proc_pid_environ(5)). Reading it waits for the memory of
/// the other process, which may hang (`access_remote_vm` takes its `mmap_lock`; mm/memory.c, Linux 6.18), so only the
/// environments of orphans are read. An orphan whose environment may not be read is no member. Some programs, for
/// example nginx, overwrite their environment to change their title: such an orphan is a member if `orphans` says so.
///
/// # Errors
/// /proc cannot be read.
pub(crate) fn living(root: Pid, marker: &[u8], orphans: Orphans<'_>) -> io::Result<BTreeSet<Pid>> {
    let mut members = BTreeSet::new();
    let mut nobody = 0;
    for look in 1..=LOOKS {
        // Read before and after the snapshot: in between, one child may be reaped and another one spawned.
        let before = (orphans.spawned)();
        let snapshot = Snapshot::take()?;
        let mut spawned = (orphans.spawned)();
        spawned.pids.extend(before.pids);
        // A spawn that hangs in exec is not waited for beyond the last look.
        spawned.under_way = (spawned.under_way || before.under_way) && look < LOOKS;
        let (found, certainty) = snapshot.look(root, marker, &spawned, orphans.wiped_since);
        members = found;
        match (certainty, members.is_empty()) {
            (Certainty::Sure, false) => break,
            // The list of processes is read at once, and each process later: a process may have ended in between, and
            // left a child that is not listed.
            (Certainty::Sure, true) if nobody < NOBODY - 1 => nobody += 1,
            (Certainty::Sure, true) => break,
            (Certainty::Unsure, _) => nobody = 0,
        }
    }
    Ok(members)
}

/// The start of a process, to be compared with that of other processes; `None` if the process is gone.
pub(crate) fn start_of(pid: Pid) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    Stat::parse(&stat).map(|stat| stat.start)
}

/// Kills all processes that `members` returns, until it returns none, at most `KILLS` times. Blocks for some
/// milliseconds.
pub(crate) fn kill(members: impl Fn() -> BTreeSet<Pid>) {
    for _ in 0..KILLS {
        let found = members();
        if found.is_empty() {
            return;
        }
        for member in hold(found, &members) {
            member.signal(Signal::KILL);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Holds the processes of `found` that are members still. A process that has ended since it was found is not returned,
/// even if its pid was reused: a process that was held first, was a member after that, and has not ended after that, is
/// that member.
pub(crate) fn hold(found: BTreeSet<Pid>, members: impl Fn() -> BTreeSet<Pid>) -> Vec<HeldProcess> {
    let held: Vec<(Pid, HeldProcess)> =
        found.into_iter().filter_map(|pid| HeldProcess::hold(pid).map(|held| (pid, held))).collect();
    let still = members();
    held.into_iter().filter(|(pid, held)| still.contains(pid) && held.is_alive()).map(|(_, held)| held).collect()
}

/// Which children of this process are orphans that it has adopted.
#[derive(Clone, Copy)]
pub(crate) struct Orphans<'a> {
    /// The children that were spawned by this process, and are no orphans.
    pub(crate) spawned: &'a dyn Fn() -> Spawned,
    /// The earliest [`start_of`] of an orphan that has overwritten its environment and is a member; `None` if no such
    /// orphan is a member.
    pub(crate) wiped_since: Option<u64>,
}

impl Orphans<'_> {
    /// Each child may be an orphan, and no orphan that has overwritten its environment is a member.
    pub(crate) const ANY: Orphans<'static> = Orphans { spawned: &Spawned::default, wiped_since: None };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certainty {
    Sure,
    /// A living orphan has ended before it was known what it was: it may have had children that are not seen. Or a
    /// child is either an orphan or being spawned.
    Unsure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// 0 if the parent is outside of this PID namespace.
    pub(crate) parent: Pid,
    pub(crate) state: char,
    pub(crate) group: Pid,
    pub(crate) session: Pid,
    threads: u32,
    /// The start of the process, in ticks of a clock that begins before any process.
    start: u64,
}

impl Stat {
    /// `None` if `stat` cannot be parsed.
    fn parse(stat: &[u8]) -> Option<Stat> {
        // The name, in brackets, may contain anything, brackets, spaces and invalid UTF-8 too.
        let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
        let mut fields = std::str::from_utf8(stat.get(after_name..)?).ok()?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let mut pid = || Some(Pid::new(fields.next()?.parse().ok()?));
        let (parent, group, session) = (pid()?, pid()?, pid()?);
        // The number of threads is field 20 of all, and the session, which was read last, is field 6.
        let threads = fields.nth(20 - 6 - 1)?.parse().ok()?;
        let start = fields.nth(22 - 20 - 1)?.parse().ok()?;
        Some(Stat { parent, state, group, session, threads, start })
    }

    /// Whether the process has not ended. A process of which only the first thread has ended shows as a zombie, and
    /// still counts its other threads (`do_task_stat` in fs/proc/array.c, Linux 6.18).
    fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X') || self.threads > 1
    }
}

impl Snapshot {
    /// # Errors
    /// /proc cannot be read.
    pub(crate) fn take() -> io::Result<Snapshot> {
        let mut processes = BTreeMap::new();
        for entry in fs::read_dir("/proc").map_err(|e| super::during("read /proc", e))?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process that is gone by now is left out.
            let stat = fs::read(format!("/proc/{pid}/stat")).ok().and_then(|stat| Stat::parse(&stat));
            processes.extend(stat.map(|stat| (Pid::new(pid), stat)));
        }
        let adopts = matches!(rustix::process::child_subreaper(), Ok(Some(_)));
        Ok(Snapshot { processes, own: Pid::new(std::process::id()), adopts })
    }

    /// The state of a process in this snapshot; `None` if the process is not in it.
    #[cfg(test)]
    pub(crate) fn process(&self, pid: Pid) -> Option<&Stat> {
        self.processes.get(&pid)
    }

    /// Zombies included: a zombie is still a child of its parent.
    #[cfg(test)]
    pub(crate) fn children_of(&self, pid: Pid) -> BTreeSet<Pid> {
        self.processes.iter().filter(|(_, stat)| stat.parent == pid).map(|(pid, _)| *pid).collect()
    }

    /// See [`living`].
    #[cfg(test)]
    pub(crate) fn members(&self, root: Pid, marker: &[u8]) -> BTreeSet<Pid> {
        self.look(root, marker, &Spawned::default(), None).0
    }

    fn look(
        &self,
        root: Pid,
        marker: &[u8],
        spawned: &Spawned,
        wiped_since: Option<u64>,
    ) -> (BTreeSet<Pid>, Certainty) {
        let mut children: BTreeMap<Pid, Vec<Pid>> = BTreeMap::new();
        for (pid, stat) in &self.processes {
            children.entry(stat.parent).or_default().push(*pid);
        }
        let of = |parent: Pid| children.get(&parent).into_iter().flatten().copied();
        let mut reached = BTreeSet::from([root]);
        let mut certainty = Certainty::Sure;
        let of_first = of(Pid::new(1)).filter(|_| !self.adopts);
        let mut adopted: Vec<Pid> = of(self.own).chain(of_first).collect();
        while let Some(pid) = adopted.pop() {
            if pid == root || pid == self.own || spawned.pids.contains(&pid) {
                continue;
            }
            // Perhaps this is the child that is being spawned, and that shares the memory of this process until exec.
            if spawned.under_way {
                certainty = Certainty::Unsure;
                continue;
            }
            match Lineage::of(pid, marker) {
                Lineage::Marked => drop(reached.insert(pid)),
                // Its children become orphans in a moment.
                Lineage::Ending => {
                    adopted.extend(of(pid));
                    if self.processes.get(&pid).is_some_and(Stat::is_alive) {
                        certainty = Certainty::Unsure;
                    }
                }
                Lineage::Wiped => {
                    let began = self.processes.get(&pid).map(|stat| stat.start);
                    if wiped_since.is_some_and(|since| began.is_some_and(|began| began >= since)) {
                        reached.insert(pid);
                    }
                }
                Lineage::Other => {}
            }
        }
        let mut ahead: Vec<Pid> = reached.iter().copied().collect();
        while let Some(pid) = ahead.pop() {
            ahead.extend(of(pid).filter(|child| reached.insert(*child)));
        }
        reached.retain(|pid| *pid != self.own && self.processes.get(pid).is_some_and(Stat::is_alive));
        (reached, certainty)
    }
}

/// What the environment of a process says about its descent.
enum Lineage {
    Marked,
    /// The environment does not contain the marker, or cannot be read.
    Other,
    /// The process has overwritten its environment.
    Wiped,
    /// The process has no environment any more: its memory is freed before its children get another parent (`do_exit`
    /// in kernel/exit.c, Linux 6.18).
    Ending,
}

impl Lineage {
    fn of(pid: Pid, marker: &[u8]) -> Lineage {
        let read = |what: &str| fs::read(format!("/proc/{pid}/{what}"));
        match read("environ") {
            // An ending process would have no arguments either.
            Ok(environment) if environment.is_empty() && read("cmdline").is_ok_and(|line| !line.is_empty()) => {
                Lineage::Wiped
            }
            Ok(environment) if environment.is_empty() => Lineage::Ending,
            Ok(environment) if environment.split(|byte| *byte == 0).any(|entry| entry == marker) => Lineage::Marked,
            Ok(environment) if !environment.contains(&b'=') => Lineage::Wiped,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Lineage::Ending,
            Ok(_) | Err(_) => Lineage::Other,
        }
    }
}

#[cfg(test)]
mod tests;
