//! The stream of events.

use tokio::sync::broadcast::{self, error::RecvError};

use crate::model::event::Event;

/// The events of this generation, from the moment at which this stream was created.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    pub(crate) fn new(receiver: broadcast::Receiver<Event>) -> Events {
        Events(receiver)
    }

    /// Waits for the next event. Returns `None` when the generation is gone. A reader that is more than 256 events
    /// behind misses the oldest events.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
