//! The listener for plain TCP.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::start::Running;
use crate::model::identity::Generation;
use crate::runtime::accept::{Room, Sink};
use crate::runtime::connections::Kind;
use crate::runtime::stream::Stream;

/// How many connections are accepted before the application takes them. Further connections wait in the kernel's accept
/// queue, where they can be counted.
const AHEAD: usize = 16;

/// Yields the accepted connections until this generation is retired or stopped.
///
/// ```no_run
/// # async fn example() -> Result<(), cutover::Error> {
/// let mut listener = cutover::Server::bind("127.0.0.1:7000").listen().await?;
/// while let Some(stream) = listener.accept().await {
///     tokio::spawn(async move {
///         let (mut read, mut write) = tokio::io::split(stream);
///         tokio::io::copy(&mut read, &mut write).await
///     });
/// }
/// listener.drained().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Listener {
    accepted: mpsc::UnboundedReceiver<Stream>,
    ahead: Ahead,
    running: Running,
}

/// The permits for connections that are accepted and not yet taken by the application.
#[derive(Debug, Clone)]
pub(crate) struct Ahead(Arc<Semaphore>);

impl Room for Ahead {
    async fn wait(&self) {
        // The semaphore is never closed. The permit comes back when the application takes the connection.
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

/// Creates the queue between the acceptors and the application. The queue is unbounded for the sake of the last
/// connections of a retiring listener.
pub(crate) fn queue() -> (Sink, Ahead, mpsc::UnboundedReceiver<Stream>) {
    let (sender, accepted) = mpsc::unbounded_channel();
    let sink: Sink = Arc::new(move |stream| {
        stream.shared().guard.becomes(Kind::Tcp);
        // An error means that the application has dropped its listener: the connection is closed, as the kernel would
        // close it.
        let _ = sender.send(stream);
    });
    (sink, Ahead(Arc::new(Semaphore::new(AHEAD))), accepted)
}

impl Listener {
    pub(crate) fn new(accepted: mpsc::UnboundedReceiver<Stream>, ahead: Ahead, running: Running) -> Listener {
        Listener { accepted, ahead, running }
    }

    /// Waits for the next connection. Returns `None` when no more connections will come, because this generation is
    /// retired or stopped.
    ///
    /// Cancel safe.
    pub async fn accept(&mut self) -> Option<Stream> {
        let stream = self.accepted.recv().await?;
        self.ahead.0.add_permits(1);
        Some(stream)
    }

    /// The number of this generation.
    pub fn generation(&self) -> Generation {
        self.running.generation()
    }

    /// Waits until this generation retires or stops, so that the application can say goodbye in its own protocol.
    ///
    /// Cancel safe.
    pub async fn retiring(&self) {
        self.running.leaving().await;
    }

    /// Waits until all streams are dropped or the drain timeout is over. End the process afterwards.
    ///
    /// Connections that were accepted and not yet taken by the application are closed. Not cancel safe: the listener is
    /// consumed.
    pub async fn drained(self) {
        drop(self.accepted);
        self.running.gone().await;
    }
}
