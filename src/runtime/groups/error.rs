//! Why new connections are not moved.

use std::io;
use std::net::SocketAddr;

use crate::model::rollout::Failure;
use crate::runtime::offload::Stalled;

/// Why an operation of a rollout on the groups was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SteeringError {
    /// A step of a rollout has come late.
    #[error("the rollout is over")]
    Over,
    #[error("all new connections go to the next generation already")]
    CutOverBefore,
    #[error("said that it is ready, but does not listen on {0}")]
    NotListening(SocketAddr),
    #[error("{0} is not steered: {1}")]
    NotSteered(SocketAddr, Unsteered),
    #[error("{0} cannot be steered: {1}")]
    CannotBeSteered(SocketAddr, Unsteered),
    /// Another listener may have moved to the slot of green's listener, so that it is unknown which generation got the
    /// connection.
    #[error("listeners of {0} were closed meanwhile")]
    ClosedMeanwhile(SocketAddr),
    #[error("was not started, because the live processes cannot be examined: {0}")]
    LiveLook(Stalled),
    #[error("was not started, because its probe, canary or soak need steering: {0}")]
    Needed(Box<SteeringError>),
    #[error("cannot be examined: {0}")]
    Look(Stalled),
    #[error(transparent)]
    Stalled(#[from] Stalled),
}

impl From<SteeringError> for Failure {
    fn from(error: SteeringError) -> Failure {
        Failure::step(&error)
    }
}

/// Why one group is left to the hash of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsteered {
    #[error("`cutover run` does the steering")]
    Elsewhere,
    #[error("steering is turned off by CUTOVER_STEERING")]
    TurnedOff,
    #[error("a listener of the live generation is gone")]
    ListenerGone,
    #[error("no listener is left")]
    NoListener,
    #[error("the slots are not known")]
    SlotsUnknown,
    #[error("the slots are not known, or too many")]
    NoProgram,
    #[error("other processes listen there too, and the slots of the listeners are not known")]
    OthersListen,
    #[error(
        "other listeners have joined or left while the next generation started, and the slots of its listeners are not \
         known"
    )]
    OthersChanged,
    #[error("the slots of the listeners cannot be found out")]
    NotFoundOut,
    #[error("{0} listeners are too many")]
    TooMany(usize),
    #[error("{refused}, and no other listener can be added: {why}")]
    NotHeld {
        /// Why no listener of the program can be copied.
        refused: String,
        why: Box<Unsteered>,
    },
    #[error("the listeners on {0} were not looked up")]
    NotLookedUp(SocketAddr),
    /// A system call has failed. The error is kept as text, so that a change of the reason can be noticed.
    #[error("{0}")]
    System(String),
}

impl From<io::Error> for Unsteered {
    fn from(error: io::Error) -> Unsteered {
        Unsteered::System(error.to_string())
    }
}
