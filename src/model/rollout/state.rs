//! Where a generation stands, with what belongs to that place and to no other.

use std::time::Instant;

use crate::model::identity::{Generation, Pid};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Preflight,
    Gate,
    Spawn,
    Ready,
    Verify,
    Probe,
    /// Before the kernel has the share of the step, and then for as long as the step lasts.
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
    /// A probe is under way, or waits for its time.
    pub(super) probing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Serve,
    Stop,
    /// At once, whatever is open.
    Finish,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// A reload that is asked for now is begun when it is live: MAINPID and the PID file may name it already.
    Standby {
        reload: bool,
    },
    Serving,
    Rolling {
        attempt: Attempt,
        step: Step,
    },
    /// Green has no pid here only as long as it is still being spawned.
    RollingBack {
        attempt: Attempt,
        reason: String,
        then: Then,
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
