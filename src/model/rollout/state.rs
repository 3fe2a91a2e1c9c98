//! The state of a generation, with the data that belongs to that state and to no other.

use std::time::Instant;

use super::Failure;
use crate::model::identity::{Generation, Pid};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Preflight,
    Gate,
    Spawn,
    Ready,
    Verify,
    Probe,
    /// `shared` is false until the kernel has the share of the step, and true for as long as the step then lasts.
    Canary {
        index: usize,
        shared: bool,
    },
    CutOver,
    Soak,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) green: Generation,
    pub(super) pid: Option<Pid>,
    pub(super) began: Instant,
    pub(super) deadline: Instant,
    /// A probe is under way, or its pause has not ended.
    pub(super) probing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Serve,
    Stop,
    /// End at once, even with open connections.
    Finish,
}

/// What the end of a rollback waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The end of green's process, or of its spawn.
    Exit,
    /// The kernel sends all new connections to this generation. Green finishes its connections meanwhile.
    SteeredBack,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// `reload`: a reload was requested already, and begins when this generation is live. MAINPID and the PID file may
    /// name this generation before that.
    Standby {
        reload: bool,
    },
    Serving,
    Rolling {
        attempt: Attempt,
        step: Step,
    },
    /// While the exit is awaited, green has no pid only as long as green is still being spawned.
    RollingBack {
        attempt: Attempt,
        reason: Failure,
        then: Then,
        awaited: Awaited,
    },
    Retiring {
        successor: Option<Generation>,
        deadline: Instant,
        forced: bool,
        force_close: bool,
    },
    Draining {
        successor: Option<Generation>,
        deadline: Instant,
        force_closed: bool,
    },
    Gone,
}
