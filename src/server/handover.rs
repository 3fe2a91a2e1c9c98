//! The stream socket between two generations: lines of JSON, with a limit on their length.

mod messages;
mod to_blue;

use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use tokio::io::BufReader;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use self::messages::{Message, read_line, write_messages};
pub(crate) use self::to_blue::{Blue, BlueEvent, Inheritance, ToBlue};
use super::passed::Passed;
use super::state::StateHook;
#[cfg(feature = "tls")]
use super::tls::tickets::Tickets;
use crate::model::addresses::Offer;
use crate::model::handover::{FromBlue, FromGreen, Listening};
use crate::model::identity::Pid;
use crate::model::rollout::Failure;
use crate::sys::during;
use crate::sys::socket::AsyncSocket;

/// How long a ready green may take to say where it listens. Only a program that does not speak this protocol takes as
/// long: such a program has to listen on each address of blue, and the order of its listeners is not known.
const TOLD: Duration = Duration::from_secs(1);

/// How long a live green may take to report that it is live. A program that does not speak this protocol never reports
/// it.
const LIVE_MAX: Duration = Duration::from_secs(10);

/// Blue's end of the socket.
#[derive(Debug, Clone)]
pub(crate) struct ToGreen {
    told: watch::Receiver<Option<Listening>>,
    /// Becomes true when green has said that it is live.
    live: watch::Receiver<bool>,
    messages: mpsc::UnboundedSender<Message>,
}

/// Binds the abstract address that green will connect to.
pub(crate) fn bind(name: &str) -> io::Result<UnixListener> {
    let address = UnixAddress::from_abstract_name(name)?;
    let listener = StdListener::bind_addr(&address).map_err(|e| during("bind the handover socket", e))?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// What blue gives green when green asks, before green listens.
#[derive(Debug, Clone, Default)]
pub(crate) struct Supply {
    pub(crate) state: Option<StateHook>,
    pub(crate) listeners: Passed,
    #[cfg(feature = "tls")]
    pub(crate) tickets: Option<Arc<Tickets>>,
}

impl ToGreen {
    /// Waits for the connection of green in the background, and refuses every other process. `failed` is called if green
    /// cannot start.
    pub(crate) fn start<F: Future<Output = ()> + Send>(
        listener: UnixListener,
        green: Pid,
        supply: Supply,
        failed: impl Fn(Failure) -> F + Clone + Send + Sync + 'static,
    ) -> ToGreen {
        let (told, told_here) = watch::channel(None);
        let (live, live_here) = watch::channel(false);
        let (messages, to_write) = mpsc::unbounded_channel();
        let to_green = ToGreen { told: told_here, live: live_here, messages };
        let answering = to_green.clone();
        tokio::spawn(async move {
            let Some(stream) = accept_from(listener, green).await else { return };
            let (read, write) = stream.into_split();
            let writer = tokio::spawn(write_messages(write, to_write));
            let mut read = BufReader::new(read);
            while let Ok(Some(message)) = read_line(&mut read).await {
                match message {
                    FromGreen::Listening(listening) => {
                        told.send_replace(Some(listening));
                    }
                    FromGreen::Live => {
                        live.send_replace(true);
                    }
                    FromGreen::Failed { reason } => {
                        failed(Failure::Step(format!("could not start: {reason}"))).await;
                    }
                    FromGreen::WantsListeners { addresses } => {
                        let (listeners, descriptors) = supply.listeners.give(&addresses);
                        answering.send_all(&FromBlue::Listeners { listeners }, Vec::new(), descriptors);
                    }
                    FromGreen::WantsState => {
                        let (state, failed, answering) = (supply.state.clone(), failed.clone(), answering.clone());
                        // Not awaited here: meanwhile green may say why it cannot start.
                        tokio::spawn(async move {
                            match StateHook::state_of(state).await {
                                Ok((message, bytes)) => answering.send_with(&message, bytes),
                                Err(why) => failed(Failure::step(&why)).await,
                            }
                        });
                    }
                    #[cfg(feature = "tls")]
                    FromGreen::WantsTickets => {
                        let keys = supply.tickets.as_ref().map(|tickets| tickets.keys()).unwrap_or_default();
                        answering.send(&FromBlue::Tickets { keys });
                    }
                    // A question that only a later version knows.
                    FromGreen::Unknown => answering.send(&FromBlue::Unknown),
                }
            }
            drop(answering);
            // Green may have closed only its own direction; blue's direction stays open until this process ends.
            let _ = writer.await;
        });
        to_green
    }

    /// Where green listens, if green says it. Green says it just before READY=1, but on another socket, so that READY=1
    /// may be read a moment before. Cancel safe.
    pub(crate) fn told(&self) -> impl Future<Output = Option<Listening>> + Send + use<> {
        let mut told = self.told.clone();
        async move {
            let waited = tokio::time::timeout(TOLD, told.wait_for(Option::is_some)).await;
            waited.ok().and_then(|told| told.ok()?.clone())
        }
    }

    /// The addresses on which green serves the application; `None` if green has not said it.
    pub(crate) fn addresses(&self) -> Option<Vec<SocketAddr>> {
        let told = self.told.borrow();
        let mine = told.as_ref()?.addresses.iter().filter(|address| address.offer == Offer::Application);
        Some(mine.map(|address| address.bound).collect())
    }

    /// Whether green speaks this protocol: green has then sent the order of its listeners before READY=1.
    pub(crate) fn is_there(&self) -> bool {
        self.told.borrow().is_some()
    }

    /// Waits until green has reported that it is live, can no longer report it, or [`LIVE_MAX`] has passed. Cancel safe.
    pub(crate) fn live(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut live = self.live.clone();
        async move {
            let _ = tokio::time::timeout(LIVE_MAX, live.wait_for(|live| *live)).await;
        }
    }

    /// Sends one message in the background. A green without a connection does not get the message.
    pub(crate) fn send(&self, message: &FromBlue) {
        self.send_with(message, Vec::new());
    }

    /// As [`send`](ToGreen::send), followed by these bytes.
    fn send_with(&self, message: &FromBlue, bytes: Vec<u8>) {
        self.send_all(message, bytes, Vec::new());
    }

    fn send_all(&self, message: &FromBlue, bytes: Vec<u8>, descriptors: Vec<Arc<AsyncSocket>>) {
        if let Ok(line) = serde_json::to_string(message) {
            let _ = self.messages.send(Message { line, bytes, descriptors });
        }
    }
}

async fn accept_from(listener: UnixListener, green: Pid) -> Option<UnixStream> {
    loop {
        let (stream, _) = listener.accept().await.ok()?;
        let peer = socket_peercred(&stream).ok().and_then(|c| u32::try_from(c.pid.as_raw_pid()).ok());
        match peer == Some(green.number()) {
            true => return Some(stream),
            false => tracing::warn!(?peer, "refused a process that is not the next generation at the handover socket"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdStream;

    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::sys::notify_socket::unique_name;

    #[tokio::test]
    async fn only_the_process_that_was_spawned_is_listened_to() {
        let name = unique_name("test").expect("random");
        let listener = bind(&name).expect("bind");
        let waiting = tokio::spawn(accept_from(listener, Pid::new(1)));
        let address = UnixAddress::from_abstract_name(&name).expect("name");
        let mut stranger = UnixStream::from_std({
            let stream = StdStream::connect_addr(&address).expect("the queue takes it");
            stream.set_nonblocking(true).expect("nonblocking");
            stream
        })
        .expect("a stream");
        assert_eq!(stranger.read(&mut [0]).await.expect("an end"), 0);
        assert!(!waiting.is_finished());
        waiting.abort();
    }
}
