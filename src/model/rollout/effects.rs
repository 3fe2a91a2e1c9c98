//! The events that go into the machine, and the effects that come out of it.

use std::time::Duration;

use super::Failure;
use crate::model::event::Outcome;
use crate::model::identity::{Generation, Pid};
use crate::model::share::Share;

/// An event for the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RolloutEvent {
    /// The generation before this one retires, or is gone: this one is live.
    Live,
    /// The generation before this one has taken all new connections back.
    TakenBack {
        by: Generation,
    },
    ReloadRequested,
    PromoteRequested,
    RollbackRequested,
    PreflightDone {
        green: Generation,
        result: Result<(), Failure>,
    },
    Gated {
        green: Generation,
        result: Result<(), Failure>,
    },
    Spawned {
        green: Generation,
        result: Result<Pid, Failure>,
    },
    GreenReady {
        green: Generation,
    },
    GreenFailed {
        green: Generation,
        reason: Failure,
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
        result: Result<(), Failure>,
    },
    Probed {
        green: Generation,
        result: Result<(), Failure>,
    },
    /// A step of the canary is in force.
    Shared {
        green: Generation,
        result: Result<(), Failure>,
    },
    CutOver {
        green: Generation,
        result: Result<(), Failure>,
    },
    /// No new connection reaches green any more.
    SteeredBack {
        green: Generation,
    },
    ListenersClosed,
    ConnectionsGone,
    /// This generation's process has ended by itself. Reported only where another process watches the generation.
    Died,
    StopRequested,
    ForceCloseRequested,
}

/// The request that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UserRequest {
    Reload,
    Promotion,
    Rollback,
}

/// Whether a cut-over can be taken back, which needs steering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revocability {
    /// A soak follows.
    Revocable,
    /// This generation retires at once.
    Final,
}

/// The connections that a drain waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DrainScope {
    /// The connections of this generation.
    Own,
    /// The connections of this generation and of all generations before it: there is no successor.
    All,
}

/// What the host has to do. An effect that has a result names the event that brings the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Find out whether there is an executable, and whether the application agrees. → [`RolloutEvent::PreflightDone`]
    Preflight { green: Generation },
    /// Steer every group to the slots of this generation. → [`RolloutEvent::Gated`]
    Gate { green: Generation },
    /// Start green. → [`RolloutEvent::Spawned`], and only after that event `GreenReady`, `GreenFailed`, `GreenExtends` and
    /// `GreenExited`
    Spawn { green: Generation },
    /// Find out whether green listens on each address. → [`RolloutEvent::Verified`]
    Verify { green: Generation },
    /// Find out, after this pause, whether green answers on each address. → [`RolloutEvent::Probed`]
    Probe { green: Generation, after: Duration },
    /// Steer a part of the new connections to green. → [`RolloutEvent::Shared`]
    Share { green: Generation, share: Share },
    /// Green has this part of the new connections, for this time.
    Canary { green: Generation, share: Share, time: Duration },
    /// Steer all new connections to green. → [`RolloutEvent::CutOver`]
    CutOver { green: Generation, turn: Revocability },
    /// All new connections go to green, and can be taken back for this time.
    Soak { time: Duration },
    /// Steer all new connections back to this generation. → [`RolloutEvent::SteeredBack`]
    SteerBack { green: Generation },
    /// Kill green. → [`RolloutEvent::GreenExited`]
    Kill { green: Generation },
    /// Users may be on green, and new connections are steered back: green finishes its connections, and ends.
    Release { green: Generation },
    /// Green is the live generation, this long after the request: tell green, the PID file and the service manager.
    HandOver { green: Generation, took: Duration },
    /// Accept the connections in flight, then close the listeners. → [`RolloutEvent::ListenersClosed`]
    Retire,
    /// There is no next generation: accept what is in the accept queues, then close the listeners.
    /// → [`RolloutEvent::ListenersClosed`]
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
    /// A reload has ended; `serves_on` says whether this generation serves on.
    Report { outcome: Outcome, serves_on: bool },
    /// A request came at the wrong time.
    Refuse { asked: UserRequest, reason: String },
    /// The first generation could not be launched, and has no process.
    LaunchFailed { reason: Failure },
    /// Green died after it had become the live generation: nothing can be taken back.
    GreenLost { green: Generation, how: String },
    /// The end of this generation.
    Finish,
}
