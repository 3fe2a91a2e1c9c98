//! Who descends from whom: the processes of a program that is supervised, its orphans included.
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
/// They are read one after the other: one that is born, or loses its parent, in the meantime can be missing. Who ends a
/// tree takes another one until nobody is left: [`living`], [`kill`].
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    processes: BTreeMap<Pid, Stat>,
    own: Pid,
    /// Orphans among the descendants of this process come to it, and not to the first process (PR_SET_CHILD_SUBREAPER(2const)).
    adopts: bool,
}

/// How often it is looked anew where a process has ended meanwhile that nobody can tell any more what it was.
const LOOKS: usize = 10;
/// How often nobody must be found, one time after the other.
const NOBODY: usize = 3;
/// How often a killed tree is looked for anew: what was forked meanwhile is in the next list.
const KILLS: usize = 100;
/// Between two such looks: a killed process takes a moment to be gone.
const PAUSE: Duration = Duration::from_millis(2);

/// The living processes of the tree that was begun by `root`: itself, what descends from it, and what was started with
/// `marker` (`NAME=value`) in its environment, is an orphan by now and was adopted by this process (or by the first one, where
/// this one is no subreaper), with what descends from that. Never this process itself. None is missed because it was born by
/// one that ended just now.
///
/// The environment is what a process was started with (proc_pid_environ(5)). Reading it waits for the memory of the other
/// process, which may hang (`access_remote_vm` takes its `mmap_lock`; mm/memory.c, Linux 6.18), so that it is read of orphans
/// only. One whose environment may not be read is no member. Some write over it to change their title, nginx for one: such an
/// orphan is a member if `orphans` says so.
///
/// # Errors
/// /proc cannot be read.
pub(crate) fn living(root: Pid, marker: &[u8], orphans: Orphans<'_>) -> io::Result<BTreeSet<Pid>> {
    let mut members = BTreeSet::new();
    let mut nobody = 0;
    for look in 1..=LOOKS {
        // Known before and after: one may be reaped, and another one spawned, between the list and the look at it.
        let before = (orphans.spawned)();
        let snapshot = Snapshot::take()?;
        let mut spawned = (orphans.spawned)();
        spawned.pids.extend(before.pids);
        // One that hangs in exec is not waited for.
        spawned.under_way = (spawned.under_way || before.under_way) && look < LOOKS;
        let (found, certainty) = snapshot.look(root, marker, &spawned, orphans.wiped_since);
        members = found;
        match (certainty, members.is_empty()) {
            (Certainty::Sure, false) => break,
            // All processes are listed at once, and read later: one may have ended in between, and left one that is not listed.
            (Certainty::Sure, true) if nobody < NOBODY - 1 => nobody += 1,
            (Certainty::Sure, true) => break,
            (Certainty::Unsure, _) => nobody = 0,
        }
    }
    Ok(members)
}

/// When a process began, to be compared with others; `None` if it is gone.
pub(crate) fn start_of(pid: Pid) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    Stat::parse(&stat).map(|stat| stat.start)
}

/// Kills all that `members` says, until that is nobody any more. Blocks for some milliseconds.
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

/// Holds those of `found` that are members still. One that has ended since it was found is not among them, whoever has its
/// number by now: a process that was held first, was a member after that, and has not ended after that, is that member.
pub(crate) fn hold(found: BTreeSet<Pid>, members: impl Fn() -> BTreeSet<Pid>) -> Vec<HeldProcess> {
    let held: Vec<(Pid, HeldProcess)> =
        found.into_iter().filter_map(|pid| HeldProcess::hold(pid).map(|held| (pid, held))).collect();
    let still = members();
    held.into_iter().filter(|(pid, held)| still.contains(pid) && held.is_alive()).map(|(_, held)| held).collect()
}

/// Which children of this process are orphans that it has adopted.
#[derive(Clone, Copy)]
pub(crate) struct Orphans<'a> {
    /// Which children are none, but were spawned by this process.
    pub(crate) spawned: &'a dyn Fn() -> Spawned,
    /// Of those that have written over their environment: such as began at this [`start_of`] or later are meant.
    pub(crate) wiped_since: Option<u64>,
}

impl Orphans<'_> {
    /// Each child may be one, and none is meant that has written over its environment.
    pub(crate) const ANY: Orphans<'static> = Orphans { spawned: &Spawned::default, wiped_since: None };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certainty {
    Sure,
    /// An orphan that lived has ended before it was known what it was: it may have had children that are not seen. Or a child
    /// is an orphan, or is being spawned.
    Unsure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// 0 if it is outside of this PID namespace.
    pub(crate) parent: Pid,
    pub(crate) state: char,
    pub(crate) group: Pid,
    pub(crate) session: Pid,
    threads: u32,
    /// In ticks of a clock that begins before any process.
    start: u64,
}

impl Stat {
    /// `None` if it cannot be understood.
    fn parse(stat: &[u8]) -> Option<Stat> {
        // The name, in brackets, may contain anything, brackets, spaces and what is no UTF-8 too.
        let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
        let mut fields = std::str::from_utf8(stat.get(after_name..)?).ok()?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let mut pid = || Some(Pid::new(fields.next()?.parse().ok()?));
        let (parent, group, session) = (pid()?, pid()?, pid()?);
        // Field 20 of all, and the session is field 6.
        let threads = fields.nth(20 - 6 - 1)?.parse().ok()?;
        let start = fields.nth(22 - 20 - 1)?.parse().ok()?;
        Some(Stat { parent, state, group, session, threads, start })
    }

    /// Whether it has not ended. One whose first thread alone has ended shows as a zombie, and counts its other threads
    /// (`do_task_stat` in fs/proc/array.c, Linux 6.18).
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
            // One that is gone by now is none of them.
            let stat = fs::read(format!("/proc/{pid}/stat")).ok().and_then(|stat| Stat::parse(&stat));
            processes.extend(stat.map(|stat| (Pid::new(pid), stat)));
        }
        let adopts = matches!(rustix::process::child_subreaper(), Ok(Some(_)));
        Ok(Snapshot { processes, own: Pid::new(std::process::id()), adopts })
    }

    /// What is known of one; `None` if there was none.
    #[cfg(test)]
    pub(crate) fn process(&self, pid: Pid) -> Option<&Stat> {
        self.processes.get(&pid)
    }

    /// Zombies included: they are still somebody's children.
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
            // Perhaps the one that is being spawned, and shares the memory of this process until exec.
            if spawned.under_way {
                certainty = Certainty::Unsure;
                continue;
            }
            match Lineage::of(pid, marker) {
                Lineage::Marked => drop(reached.insert(pid)),
                // Its children are orphans in a moment.
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

/// What the environment of a process tells of it.
enum Lineage {
    Marked,
    /// It has another one.
    Other,
    /// It has written over it.
    Wiped,
    /// It has none any more: its memory goes before its children have another parent (`do_exit` in kernel/exit.c, Linux
    /// 6.18).
    Ending,
}

impl Lineage {
    fn of(pid: Pid, marker: &[u8]) -> Lineage {
        let read = |what: &str| fs::read(format!("/proc/{pid}/{what}"));
        match read("environ") {
            // Nor has it arguments then.
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
#[path = "process_tree_tests.rs"]
mod tests;
