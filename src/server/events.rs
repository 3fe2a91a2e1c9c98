//! The stream of events.

use tokio::sync::broadcast::{self, error::RecvError};

use crate::model::event::Event;

/// What happens to this generation, from the moment at which this was made.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    pub(crate) fn new(receiver: broadcast::Receiver<Event>) -> Events {
        Events(receiver)
    }

    /// The next event; `None` when the generation is gone. A reader that is more than 256 events behind misses the oldest.
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
