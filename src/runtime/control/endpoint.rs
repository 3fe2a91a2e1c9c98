//! Which generation answers on the control socket, and what an answer needs of that generation.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{broadcast, mpsc, watch};

use crate::model::event::Event;
use crate::runtime::connections::Connections;
use crate::runtime::input::Input;
use crate::runtime::offload::Lane;

/// How the control socket asks the driver, and what it may read without the driver.
#[derive(Debug, Clone)]
pub(crate) struct LiveEndpoint {
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) counts: Counts,
    pub(crate) passed_on: watch::Receiver<bool>,
    /// Limits the looks at other processes: see [`looks`].
    pub(crate) looks: Lane,
}

/// How many status requests may look at other processes at once.
pub(crate) fn looks() -> Lane {
    Lane::new(8)
}

/// The open connections of a generation.
#[derive(Debug, Clone)]
pub(crate) enum Counts {
    /// The connections of this process.
    Own(Arc<Connections>),
    /// The last count of the connections of supervised processes.
    Watched(Arc<AtomicUsize>),
}

impl Counts {
    pub(super) fn open(&self) -> usize {
        match self {
            Counts::Own(connections) => connections.open(),
            Counts::Watched(open) => open.load(Ordering::Relaxed),
        }
    }
}

/// The generation that the control socket asks, which may change.
#[derive(Debug, Clone)]
pub(crate) struct ControlTarget(watch::Receiver<LiveEndpoint>);

impl ControlTarget {
    /// A target that is always this endpoint.
    pub(crate) fn of(endpoint: LiveEndpoint) -> ControlTarget {
        ControlTarget(watch::channel(endpoint).1)
    }

    /// A target that is the endpoint of the live generation, which changes.
    pub(crate) fn changing(endpoint: watch::Receiver<LiveEndpoint>) -> ControlTarget {
        ControlTarget(endpoint)
    }

    pub(super) fn now(&self) -> LiveEndpoint {
        self.0.borrow().clone()
    }
}
