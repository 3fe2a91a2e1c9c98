//! The plain-TCP face.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::start::Running;
use crate::model::identity::Generation;
use crate::runtime::accept::{Room, Sink};
use crate::runtime::connections::Kind;
use crate::runtime::stream::Stream;

/// How many connections are accepted ahead of the application; the rest waits in the kernel, where it can be counted.
const AHEAD: usize = 16;

/// Gives out connections, until this generation is retired or stopped.
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

/// The places for connections that are accepted and not yet given out.
#[derive(Debug, Clone)]
pub(crate) struct Ahead(Arc<Semaphore>);

impl Room for Ahead {
    async fn wait(&self) {
        // Never closed. The permit comes back when the application takes the connection.
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

/// A queue between the acceptors and the application. It is unbounded for the last connections of a retiring listener.
pub(crate) fn queue() -> (Sink, Ahead, mpsc::UnboundedReceiver<Stream>) {
    let (sender, accepted) = mpsc::unbounded_channel();
    let sink: Sink = Arc::new(move |stream| {
        stream.shared().guard.becomes(Kind::Tcp);
        // The application has dropped its listener: the connection is closed, as it would be by the kernel.
        let _ = sender.send(stream);
    });
    (sink, Ahead(Arc::new(Semaphore::new(AHEAD))), accepted)
}

impl Listener {
    pub(crate) fn new(accepted: mpsc::UnboundedReceiver<Stream>, ahead: Ahead, running: Running) -> Listener {
        Listener { accepted, ahead, running }
    }

    /// The next connection; `None` when there will be no more, because this generation is retired or stopped.
    ///
    /// Cancel safe.
    pub async fn accept(&mut self) -> Option<Stream> {
        let stream = self.accepted.recv().await?;
        self.ahead.0.add_permits(1);
        Some(stream)
    }

    /// This generation.
    pub fn generation(&self) -> Generation {
        self.running.generation()
    }

    /// Waits until this generation retires or stops, so that the application can say goodbye in its own protocol.
    ///
    /// Cancel safe.
    pub async fn retiring(&self) {
        self.running.leaving().await;
    }

    /// Waits until all streams are dropped, or the drain timeout is over. End the process after it.
    ///
    /// Connections that were accepted and not taken yet are closed. Not cancel safe: the listener is consumed.
    pub async fn drained(self) {
        drop(self.accepted);
        self.running.gone().await;
    }
}
