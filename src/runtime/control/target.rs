//! Which generation answers on the control socket, and what an answer needs of that generation.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{broadcast, mpsc, watch};

use crate::model::event::Event;
use crate::runtime::connections::Connections;
use crate::runtime::driver::Input;
use crate::runtime::offload::Lane;

/// How the control socket asks the driver, and what it may look at itself.
#[derive(Debug, Clone)]
pub(crate) struct LiveEndpoint {
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) counts: Counts,
    pub(crate) passed_on: watch::Receiver<bool>,
    /// For what is looked up of other processes: see [`looks`].
    pub(crate) looks: Lane,
}

/// How many status requests may look at other processes at once.
pub(crate) fn looks() -> Lane {
    Lane::new(8)
}

/// The open connections of a generation.
#[derive(Debug, Clone)]
pub(crate) enum Counts {
    /// Its own.
    Own(Arc<Connections>),
    /// Those of processes that are watched, as they were counted last.
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

/// Where it is known which generation is to be asked.
#[derive(Debug, Clone)]
pub(crate) struct ControlTarget(watch::Receiver<LiveEndpoint>);

impl ControlTarget {
    /// Always this one.
    pub(crate) fn of(endpoint: LiveEndpoint) -> ControlTarget {
        ControlTarget(watch::channel(endpoint).1)
    }

    /// The one that is live.
    pub(crate) fn changing(endpoint: watch::Receiver<LiveEndpoint>) -> ControlTarget {
        ControlTarget(endpoint)
    }

    pub(super) fn now(&self) -> LiveEndpoint {
        self.0.borrow().clone()
    }
}
