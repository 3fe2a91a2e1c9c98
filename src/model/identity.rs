//! The numbers that name things: generations, processes, listeners.

use std::fmt;

/// The number of a generation: the process that was started first is 1, and each further attempt adds one.
///
/// A generation that never became live keeps its number, so that a number names one process in every log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Generation(u32);

impl Generation {
    /// The generation that was started from outside, not by another generation.
    pub const FIRST: Generation = Generation(1);

    /// The place before the first generation, where no process is.
    pub(crate) const NONE: Generation = Generation(0);

    /// Names the generation with this number; 0 is taken for 1.
    pub fn new(number: u32) -> Generation {
        Generation(number.max(1))
    }

    /// The number, from 1.
    pub fn number(self) -> u32 {
        self.0
    }

    pub(crate) fn next(self) -> Generation {
        Generation(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A process id, as this process's pid namespace numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Pid(u32);

impl Pid {
    /// Names the process with this id.
    pub const fn new(pid: u32) -> Pid {
        Pid(pid)
    }

    /// The id as a number.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A listening socket, named by its inode, as in sock_diag(7) and /proc/PID/fd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct Inode(pub(crate) u64);

impl fmt::Display for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "socket:[{}]", self.0)
    }
}
