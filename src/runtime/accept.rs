//! Accepts connections from the listeners, for as long as this generation accepts.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::connections::Connections;
use super::stream::Stream;
use crate::sys::socket::{self, AsyncSocket};

/// How long to wait when the system has no descriptors or memory left for one more connection.
pub(crate) const EXHAUSTED: Duration = Duration::from_millis(100);

/// The shortest time between two warnings of this shortage.
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// Where accepted connections go.
pub(crate) type Sink = Arc<dyn Fn(Stream) + Send + Sync>;

/// A listener, and the sink of its connections.
pub(crate) struct AcceptingListener {
    pub(crate) listener: Arc<AsyncSocket>,
    sink: Sink,
}

/// The tasks that accept, one for each listener.
pub(crate) struct Acceptors {
    tasks: Vec<JoinHandle<AcceptingListener>>,
    stop: watch::Sender<bool>,
    connections: Arc<Connections>,
}

impl Acceptors {
    pub(crate) fn new(connections: &Arc<Connections>) -> Acceptors {
        Acceptors { tasks: Vec::new(), stop: watch::Sender::new(false), connections: connections.clone() }
    }

    /// Begins to accept. Each connection is accepted only when `room` has room.
    pub(crate) fn open(&mut self, listeners: &[Arc<AsyncSocket>], sink: &Sink, room: &impl Room) {
        for listener in listeners {
            let (door, room) = (AcceptingListener { listener: listener.clone(), sink: sink.clone() }, room.clone());
            let (connections, mut stopped) = (self.connections.clone(), self.stop.subscribe());
            self.tasks.push(tokio::spawn(async move {
                tokio::select! {
                    _ = stopped.wait_for(|stopped| *stopped) => {}
                    () = accept_all(&door, &connections, &room) => {}
                }
                door
            }));
        }
    }

    /// Stops accepting and returns the listeners, which still listen.
    pub(crate) async fn stop(&mut self) -> Vec<AcceptingListener> {
        self.stop.send_replace(true);
        let mut doors = Vec::new();
        for task in self.tasks.drain(..) {
            // A task that panicked has dropped its listener already.
            if let Ok(door) = task.await {
                doors.push(door);
            }
        }
        doors
    }

    /// Accepts all connections in the accept queue of one listener, regardless of every limit: the close would reset
    /// them. Returns their number.
    ///
    /// # Errors
    /// When accept(2) or epoll_ctl(2) fails; connections that are still in the accept queue then stay there.
    pub(crate) fn empty(&self, door: &AcceptingListener) -> io::Result<usize> {
        let mut taken = 0;
        while let Some(accepted) = socket::accept_now(&door.listener)? {
            take(accepted, &self.connections, &door.sink)?;
            taken += 1;
        }
        Ok(taken)
    }
}

/// A limit that must have room before one more connection is accepted.
pub(crate) trait Room: Clone + Send + Sync + 'static {
    /// Returns when there is room. Cancel safe.
    fn wait(&self) -> impl Future<Output = ()> + Send;
}

/// Always room.
#[derive(Clone)]
pub(crate) struct Unbounded;

impl Room for Unbounded {
    async fn wait(&self) {}
}

/// Room within the limit of connections.
impl Room for Arc<Connections> {
    async fn wait(&self) {
        self.room().await;
    }
}

/// Room within both limits.
impl<A: Room, B: Room> Room for (A, B) {
    async fn wait(&self) {
        self.0.wait().await;
        self.1.wait().await;
    }
}

async fn accept_all(door: &AcceptingListener, connections: &Arc<Connections>, room: &impl Room) {
    let mut said: Option<Instant> = None;
    loop {
        room.wait().await;
        let accepted = door.listener.async_io(Interest::READABLE, |listener| socket::accept(listener)).await;
        match accepted.and_then(|accepted| take(accepted, connections, &door.sink)) {
            Ok(()) => {}
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                // An accept that succeeds in between does not begin a new shortage: a connection that ends makes room
                // for one.
                if said.is_none_or(|said| said.elapsed() > SAID_AGAIN) {
                    said = Some(Instant::now());
                    tracing::warn!(%error, open = connections.open(), "cannot accept connections, trying again");
                }
                // Without a pause the loop would spin, because the listener stays readable.
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

/// # Errors
/// Errors of epoll_ctl(2): the connection is closed then.
fn take((socket, peer): (OwnedFd, Option<SocketAddr>), connections: &Arc<Connections>, sink: &Sink) -> io::Result<()> {
    let stream = Stream::new(socket, peer, connections.enter())?;
    if peer.is_some() {
        // Fails only on a connection that is gone, and then the first read fails too.
        let _ = stream.set_nodelay(true);
    }
    sink(stream);
    Ok(())
}

/// Whether the error belongs to one connection: accept(2) returns such errors too.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
        || matches!(error.raw_os_error(), Some(libc::EPROTO | libc::EPERM | libc::ENETDOWN | libc::EHOSTUNREACH))
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn no_more_than_the_limit_are_open_until_the_queue_is_emptied() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let listener = listener.into_std().expect("deregistered").into();
        let listener = Arc::new(socket::watch(listener, Interest::READABLE).expect("registered"));
        let (sender, mut accepted) = tokio::sync::mpsc::unbounded_channel();
        let sink: Sink = Arc::new(move |stream| sender.send(stream).expect("received"));
        let connections = Connections::new(2);
        let mut acceptors = Acceptors::new(&connections);
        acceptors.open(&[listener], &sink, &(connections.clone(), Unbounded));
        let mut clients = Vec::new();
        for _ in 0..5 {
            clients.push(TcpStream::connect(address).await.expect("queued"));
        }
        let first = accepted.recv().await.expect("within the limit");
        let _second = accepted.recv().await.expect("within the limit");
        // There is no event for a connection that is not accepted.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(accepted.try_recv().is_err(), "three of two");
        drop(first);
        let _third = accepted.recv().await.expect("there is room again");
        let doors = acceptors.stop().await;
        assert_eq!(acceptors.empty(&doors[0]).expect("accept"), 2, "the last ones would be reset by the close");
        assert_eq!(connections.open(), 4);
    }
}
