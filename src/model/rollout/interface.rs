//! What goes into the machine and what comes out of it.

use std::time::Duration;

use crate::model::event::Outcome;
use crate::model::identity::{Generation, Pid};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The generation before this one retires, or is gone: this one is live.
    Live,
    ReloadRequested,
    PreflightDone {
        green: Generation,
        result: Result<(), String>,
    },
    Gated {
        green: Generation,
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
    CutOver {
        green: Generation,
        result: Result<(), String>,
    },
    ListenersClosed,
    ConnectionsGone,
    StopRequested,
    HammerRequested,
}

/// What the host has to do. Those that bring something back name the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Is there an executable, and does the application agree? → [`Event::PreflightDone`]
    Preflight { green: Generation },
    /// Steer every group to its own slots. → [`Event::Gated`]
    Gate { green: Generation },
    /// Start green. → [`Event::Spawned`], and only after it `GreenReady`, `GreenFailed`, `GreenExtends`, `GreenExited`
    Spawn { green: Generation },
    /// Does green listen on each address? → [`Event::Verified`]
    Verify { green: Generation },
    /// Steer all new connections to green. → [`Event::CutOver`]
    CutOver { green: Generation },
    /// Steer all new connections back to this generation.
    SteerBack,
    /// Kill green. → [`Event::GreenExited`]
    Kill { green: Generation },
    /// Green is the live generation: tell it, the PID file and the service manager.
    HandOver { green: Generation },
    /// Take in what is on its way, close the listeners. → [`Event::ListenersClosed`]
    Retire,
    /// There is no next generation: take in what is in the accept queues, close the listeners. → [`Event::ListenersClosed`]
    StopAccepting,
    /// Close the listeners without waiting any longer. → [`Event::ListenersClosed`]
    CloseNow,
    /// Wait for the last connection. → [`Event::ConnectionsGone`]
    AwaitConnections,
    /// Close the connections that are left. → [`Event::ConnectionsGone`]
    Hammer,
    /// End the drain of the generations before this one.
    HammerPredecessors,
    /// This generation has become the live one.
    BecomeLive,
    /// A reload has ended.
    Report(Outcome),
    /// A reload was asked for at the wrong time.
    Refuse { reason: String },
    /// Green died after it had become the live generation: nothing can be taken back.
    GreenLost { green: Generation, how: String },
    /// The end.
    Finish,
}
