//! The inputs of a driver.

use tokio::sync::oneshot;

use super::status::{Depth, Draft};
use crate::model::rollout::RolloutEvent;
use crate::model::status::RolloutStatus;

/// Capacity of the queue of inputs. When the queue is full, its senders wait.
pub(crate) const QUEUE: usize = 64;

/// The inputs of a driver that are the same for each host.
#[derive(Debug)]
pub(crate) enum Input {
    /// An event of the machine.
    Rollout(RolloutEvent),
    /// A question of a client of the control socket.
    Ask(Ask),
    /// It is time to tell the service manager the state of this generation.
    Heartbeat,
    /// SIGUSR1.
    LogStatus,
    /// It is time to look for foreign listeners in our groups.
    LookForStrangers,
}

/// A question, with the channel for its answer.
#[derive(Debug)]
pub(crate) enum Ask {
    /// The status.
    Status { depth: Depth, reply: oneshot::Sender<Result<Draft, Refused>> },
    /// Gives this event to the machine. The answer is the rollout that is under way then, or the machine's refusal.
    Do { event: RolloutEvent, reply: oneshot::Sender<Result<Option<RolloutStatus>, Refused>> },
}

/// Why a question was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The machine does not take this event in its current phase.
    WrongTime(String),
    /// This generation does not answer any more: the next generation has the leadership, or is about to get it.
    Retired(String),
}

impl Refused {
    /// The refusal when the driver does not answer any more.
    pub(crate) fn gone() -> Refused {
        Refused::Retired("this generation is gone: ask again".into())
    }
}
