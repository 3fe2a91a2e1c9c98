//! Reaps every child of this process, spawned or adopted, and reports how a spawned child has ended to its spawner.
//!
//! For a process that is the first one of a container, or a child subreaper. No other code in the process may wait for
//! a child then, [`Process::reap`] included: the call would find no child, or take an end away from the code that waits
//! for it.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use rustix::process::{WaitOptions, WaitStatus, getpid, set_child_subreaper, wait, waitpid};
use tokio::sync::oneshot;

use super::during;
use super::process::{Process, describe};
use crate::model::identity::Pid;

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(u8),
    Killed { signal: u8 },
}

impl Ended {
    fn of(status: WaitStatus) -> Ended {
        let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ended::Exited(byte(code)),
            // A child that is waited for without WUNTRACED and WCONTINUED has exited, or was killed.
            (None, signal) => Ended::Killed { signal: byte(signal.unwrap_or(0)) },
        }
    }

    /// The exit code, or 128 plus the number of the signal, as a shell reports it.
    pub(crate) fn code(self) -> u8 {
        match self {
            Ended::Exited(code) => code,
            Ended::Killed { signal } => signal.saturating_add(128),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Ended::Exited(code) => f.write_str(&describe(Some(code.into()), None)),
            Ended::Killed { signal } => f.write_str(&describe(None, Some(signal.into()))),
        }
    }
}

/// The spawned children of this process at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spawned {
    pub(crate) pids: BTreeSet<Pid>,
    /// One more child is being spawned, and its pid is not known yet.
    pub(crate) under_way: bool,
}

/// The receivers that wait for the end of a child. All clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reaper(Arc<Children>);

#[derive(Debug, Default)]
struct Children {
    /// Held while a child is being spawned. Exec may wait for a disk, for an unlimited time.
    spawning: Mutex<()>,
    /// [`Reaper::reap`] was called while a child was being spawned, so that not all children were reaped.
    missed: AtomicBool,
    asked: Mutex<HashMap<Pid, oneshot::Sender<Ended>>>,
}

impl Reaper {
    /// Spawns a child, and reports later how the child has ended. Blocks until exec has happened; the ends of other
    /// children are reported meanwhile.
    ///
    /// No unknown child is reaped in between. So a child that ends at once is not missed, and a child that could not
    /// exec is left to `spawn`, which waits for it itself.
    ///
    /// # Errors
    /// Those of `spawn`.
    pub(crate) fn spawn(
        &self,
        spawn: impl FnOnce() -> io::Result<Process>,
    ) -> io::Result<(Process, oneshot::Receiver<Ended>)> {
        let spawned = {
            let _spawning = self.0.spawning.lock().unwrap_or_else(PoisonError::into_inner);
            spawn().map(|process| {
                let (tell, end) = oneshot::channel();
                self.asked().insert(process.pid, tell);
                (process, end)
            })
        };
        if self.0.missed.swap(false, Ordering::SeqCst) {
            self.reap();
        }
        spawned
    }

    /// The children that were spawned and have not been reaped.
    pub(crate) fn spawned(&self) -> Spawned {
        // `under_way` is read first: a child that is no longer under way is among the pids.
        let under_way = self.not_spawning().is_none();
        Spawned { pids: self.asked().keys().copied().collect(), under_way }
    }

    /// Reaps all children that have ended, and returns their number. Call this at each SIGCHLD, and once after the
    /// handler was installed: a child that ended before that sends no signal any more. Does not block: while a child is
    /// being spawned, only the children that were spawned before are reaped, and the others afterwards.
    /// An adopted child is waited for like a spawned child: its exit signal becomes SIGCHLD (`reparent_leader` in
    /// kernel/exit.c, Linux 6.18).
    pub(crate) fn reap(&self) -> usize {
        if let Some(_idle) = self.not_spawning() {
            return self.reap_all();
        }
        self.0.missed.store(true, Ordering::SeqCst);
        // The spawn may have ended just before `missed` was set; then no thread would read the flag.
        match self.not_spawning() {
            Some(_idle) => self.reap_all(),
            None => self.reap_known(),
        }
    }

    fn not_spawning(&self) -> Option<MutexGuard<'_, ()>> {
        match self.0.spawning.try_lock() {
            Ok(idle) => Some(idle),
            Err(TryLockError::Poisoned(idle)) => Some(idle.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<Pid, oneshot::Sender<Ended>>> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap_all(&self) -> usize {
        let mut count = 0;
        // `wait` fails when there is no child (any more).
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            count += 1;
            self.tell(Pid::new(pid.as_raw_nonzero().get().unsigned_abs()), status);
        }
        count
    }

    fn reap_known(&self) -> usize {
        let known: Vec<Pid> = self.asked().keys().copied().collect();
        let mut count = 0;
        for pid in known {
            let Some(raw) = i32::try_from(pid.number()).ok().and_then(rustix::process::Pid::from_raw) else { continue };
            if let Ok(Some((_, status))) = waitpid(Some(raw), WaitOptions::NOHANG) {
                count += 1;
                self.tell(pid, status);
            }
        }
        count
    }

    fn tell(&self, pid: Pid, status: WaitStatus) {
        if let Some(tell) = self.asked().remove(&pid) {
            // A receiver that was dropped needs no report.
            let _ = tell.send(Ended::of(status));
        }
    }
}

/// Adopts each orphan among the descendants of this process, from now on (PR_SET_CHILD_SUBREAPER(2const), Linux 3.4).
/// The first process of a PID namespace does that anyway. Children do not inherit this attribute.
pub(crate) fn become_subreaper() -> io::Result<()> {
    // Any pid means "yes".
    set_child_subreaper(Some(getpid())).map_err(|e| during("adopt orphans (PR_SET_CHILD_SUBREAPER)", e))
}

#[cfg(test)]
mod tests;
