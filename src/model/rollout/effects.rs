//! What goes into the machine and what comes out of it.

use std::time::Duration;

use crate::model::event::Outcome;
use crate::model::identity::{Generation, Pid};
use crate::model::share::Share;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RolloutEvent {
    /// The generation before this one retires, or is gone: this one is live.
    Live,
    /// The generation before this one has taken everything back.
    TakenBack {
        by: Generation,
    },
    ReloadRequested,
    PromoteRequested,
    RollbackRequested,
    PreflightDone {
        green: Generation,
        result: Result<(), String>,
    },
    Gated {
        green: Generation,
        result: Result<(), String>,
    },
    Spawned {
        green: Generation,
        result: Result<Pid, String>,
    },
    GreenReady {
        green: Generation,
    },
    GreenFailed {
        green: Generation,
        reason: String,
    },
    GreenExtends {
        green: Generation,
        by: Duration,
    },
    GreenExited {
        green: Generation,
        how: String,
    },
    Verified {
        green: Generation,
        result: Result<(), String>,
    },
    Probed {
        green: Generation,
        result: Result<(), String>,
    },
    /// A step of the canary is in force.
    Shared {
        green: Generation,
        result: Result<(), String>,
    },
    CutOver {
        green: Generation,
        result: Result<(), String>,
    },
    ListenersClosed,
    ConnectionsGone,
    /// This generation's process has ended by itself. Only of one that another process watches.
    Died,
    StopRequested,
    ForceCloseRequested,
}

/// What was asked for and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UserRequest {
    Reload,
    Promotion,
    Rollback,
}

/// Whether a cut-over can be taken back, which takes steering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revocability {
    /// A soak follows.
    Revocable,
    /// This generation retires at once.
    Final,
}

/// Which connections are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DrainScope {
    /// Those of this generation.
    Own,
    /// Nobody comes after it, so it waits for the generations before it too.
    All,
}

/// What the host has to do. Those that bring something back name the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Is there an executable, and does the application agree? → [`RolloutEvent::PreflightDone`]
    Preflight { green: Generation },
    /// Steer every group to its own slots. → [`RolloutEvent::Gated`]
    Gate { green: Generation },
    /// Start green. → [`RolloutEvent::Spawned`], and only after it `GreenReady`, `GreenFailed`, `GreenExtends`, `GreenExited`
    Spawn { green: Generation },
    /// Does green listen on each address? → [`RolloutEvent::Verified`]
    Verify { green: Generation },
    /// Does green answer, on each address, after this pause? → [`RolloutEvent::Probed`]
    Probe { green: Generation, after: Duration },
    /// Steer a part of the new connections to green. → [`RolloutEvent::Shared`]
    Share { green: Generation, share: Share },
    /// Green has this part of the new connections, for this time.
    Canary { green: Generation, share: Share, time: Duration },
    /// Steer all new connections to green. → [`RolloutEvent::CutOver`]
    CutOver { green: Generation, turn: Revocability },
    /// Everybody is on green, and can be had back for this time.
    Soak { time: Duration },
    /// Steer all new connections back to this generation.
    SteerBack,
    /// Kill green. → [`RolloutEvent::GreenExited`]
    Kill { green: Generation },
    /// Users are on green, and are steered back: it finishes what it has, and goes.
    Release { green: Generation },
    /// Green is the live generation, this long after it was asked for: tell it, the PID file and the service manager.
    HandOver { green: Generation, took: Duration },
    /// Take in what is on its way, close the listeners. → [`RolloutEvent::ListenersClosed`]
    Retire,
    /// There is no next generation: take in what is in the accept queues, close the listeners. → [`RolloutEvent::ListenersClosed`]
    StopAccepting,
    /// Close the listeners without waiting any longer. → [`RolloutEvent::ListenersClosed`]
    CloseNow,
    /// Wait for the last connection. → [`RolloutEvent::ConnectionsGone`]
    AwaitConnections(DrainScope),
    /// Close the connections on which nothing is under way.
    CloseIdle,
    /// Close the connections that are left. → [`RolloutEvent::ConnectionsGone`]
    ForceClose,
    /// End the drain of the generations before this one.
    ForceClosePredecessors,
    /// This generation has become the live one.
    BecomeLive,
    /// A reload has ended, and this generation serves on or not.
    Report { outcome: Outcome, serves_on: bool },
    /// Something was asked for at the wrong time.
    Refuse { asked: UserRequest, reason: String },
    /// Green died after it had become the live generation: nothing can be taken back.
    GreenLost { green: Generation, how: String },
    /// The end.
    Finish,
}
