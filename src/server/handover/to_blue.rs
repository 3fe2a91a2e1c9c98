//! Green's end of the handover socket.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use super::messages::{read_line, read_with_descriptors};
use crate::model::handover::{Drainer, FromBlue, FromGreen, GroupOrder, History, Listening, PassedListener, SpawnInfo};
use crate::model::identity::Generation;
use crate::model::state::STATE_MAX;
#[cfg(feature = "tls")]
use crate::model::ticket_keys::TicketKey;
use crate::model::unix_address::UnixAddress;
use crate::sys::process::HeldProcess;

/// How long blue may take to answer before green listens. A blue that is stopped does not answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What green learns about the previous generation.
#[derive(Debug)]
pub(crate) enum BlueEvent {
    /// Blue passes on the leadership with its [`Inheritance`]; `None` if blue is gone without having passed it on.
    Live(Option<Inheritance>),
    /// Blue has taken all new connections back.
    TakenBack { by: Generation },
    /// Blue has closed its listeners; this is the order of the slots.
    Closed(Vec<GroupOrder>),
}

/// What the live generation passes on to the next one, beside the leadership.
#[derive(Debug)]
pub(crate) struct Inheritance {
    pub(crate) draining: Vec<Drainer>,
    pub(crate) history: History,
}

/// Green's end of the socket.
#[derive(Debug, Clone)]
pub(crate) struct ToBlue {
    stream: Arc<Mutex<StdStream>>,
    /// Becomes true when this generation has taken over the groups from blue, which holds no listener any more.
    taken_over: Arc<watch::Sender<bool>>,
}

/// The connection to blue before green listens: green asks, and blue answers.
#[derive(Debug)]
pub(crate) struct Blue {
    read: BufReader<UnixStream>,
    write: StdStream,
}

impl Blue {
    /// # Errors
    /// If the connection cannot be watched.
    pub(crate) fn new(stream: StdStream) -> io::Result<Blue> {
        let write = stream.try_clone()?;
        stream.set_nonblocking(true)?;
        Ok(Blue { read: BufReader::new(UnixStream::from_std(stream)?), write })
    }

    /// Tells blue why green cannot start, and waits until blue has heard the reason: the end of this process must not come
    /// before it.
    pub(crate) async fn tell_failure(mut self, reason: String) {
        // Blue kills this process, or is gone.
        let failed = FromGreen::Failed { reason };
        let _ = tokio::time::timeout(ANSWER_MAX, self.ask(&failed)).await;
    }

    /// The keys of blue's session tickets; `None` if blue is gone, or does not answer in time.
    #[cfg(feature = "tls")]
    pub(crate) async fn tickets(&mut self) -> Option<Vec<TicketKey>> {
        match tokio::time::timeout(ANSWER_MAX, self.ask(&FromGreen::WantsTickets)).await.ok()?? {
            FromBlue::Tickets { keys } => Some(keys),
            _ => None,
        }
    }

    /// The listeners that blue has on these Unix sockets. An error, or a blue that is gone, is an answer without any.
    pub(crate) async fn listeners(&mut self, addresses: Vec<UnixAddress>) -> Vec<(PassedListener, OwnedFd)> {
        let answer = async {
            send(&mut self.write, &FromGreen::WantsListeners { addresses }).ok()?;
            match read_with_descriptors(self.read.get_ref()).await.ok()?? {
                (FromBlue::Listeners { listeners }, descriptors) => Some(listeners.into_iter().zip(descriptors)),
                _ => None,
            }
        };
        let answer = tokio::time::timeout(ANSWER_MAX, answer).await;
        answer.ok().flatten().map(Iterator::collect).unwrap_or_default()
    }

    /// The state of blue's application, and its version; `None` if there is none, or if blue is gone.
    ///
    /// Waits without a limit: blue has a deadline for the hook that makes the state and for this process.
    pub(crate) async fn state(&mut self) -> Option<(u32, Vec<u8>)> {
        let FromBlue::State { version, length } = self.ask(&FromGreen::WantsState).await? else { return None };
        let mut bytes = vec![0; usize::try_from(length).ok().filter(|length| *length <= STATE_MAX)?];
        self.read.read_exact(&mut bytes).await.ok()?;
        Some((version, bytes))
    }

    /// Blue's answer; `None` if blue is gone.
    async fn ask(&mut self, question: &FromGreen) -> Option<FromBlue> {
        send(&mut self.write, question).ok()?;
        read_line(&mut self.read).await.ok()?
    }
}

impl ToBlue {
    /// Begins to read the messages of blue. The end of the stream tells green that blue is gone.
    pub(crate) fn start<E: From<BlueEvent> + Send + 'static>(
        blue: Blue,
        spawn_info: &SpawnInfo,
        told: mpsc::Sender<E>,
    ) -> ToBlue {
        let (process, by) = (HeldProcess::hold(spawn_info.blue), spawn_info.blue_generation);
        let Blue { mut read, write } = blue;
        tokio::spawn(async move {
            let mut was_closed = false;
            loop {
                let event = match read_line(&mut read).await {
                    Ok(Some(FromBlue::Live { draining, history })) => {
                        BlueEvent::Live(Some(Inheritance { draining, history }))
                    }
                    Ok(Some(FromBlue::TakenBack)) => BlueEvent::TakenBack { by },
                    Ok(Some(FromBlue::Closed { groups })) => {
                        was_closed = true;
                        BlueEvent::Closed(groups)
                    }
                    Ok(Some(FromBlue::Unknown)) => continue,
                    // Nothing was asked.
                    Ok(Some(FromBlue::State { .. } | FromBlue::NoState | FromBlue::Listeners { .. })) => continue,
                    #[cfg(feature = "tls")]
                    Ok(Some(FromBlue::Tickets { .. })) => continue,
                    Ok(None) | Err(_) => {
                        if !was_closed {
                            // The stream may end before blue's listeners are closed.
                            if let Some(process) = &process {
                                process.gone().await;
                            }
                            // Blue is gone without a message, and its knowledge of the order of the slots is lost.
                            let _ = told.send(BlueEvent::Closed(vec![]).into()).await;
                        }
                        let _ = told.send(BlueEvent::Live(None).into()).await;
                        return;
                    }
                };
                if told.send(event.into()).await.is_err() {
                    return;
                }
            }
        });
        ToBlue { stream: Arc::new(Mutex::new(write)), taken_over: Arc::new(watch::Sender::new(false)) }
    }

    /// Tells blue where this generation listens. An error is not reported here: the reader of the stream notices that
    /// blue is gone.
    pub(crate) fn listening(&self, listening: Listening) {
        self.send(&FromGreen::Listening(listening));
    }

    /// Tells blue that this generation has taken its leadership.
    pub(crate) fn live(&self) {
        self.send(&FromGreen::Live);
    }

    fn send(&self, message: &FromGreen) {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = send(&mut stream, message) {
            tracing::debug!(%error, "the previous generation does not read the handover socket, ignoring");
            // A part of the line may be sent, and a next line would continue that part. Fails if blue is gone.
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
    }

    /// Records that [`BlueEvent::Closed`] was acted on: this generation has taken over the groups that blue steered.
    pub(crate) fn mark_taken_over(&self) {
        self.taken_over.send_replace(true);
    }

    /// Whether blue holds no listener any more, and this generation steers.
    pub(crate) fn is_closed(&self) -> bool {
        *self.taken_over.borrow()
    }

    /// Waits until blue holds no listener any more, and this generation knows the order of the slots as far as blue has
    /// sent it. Cancel safe.
    pub(crate) async fn closed(&self) {
        // Cannot fail: this value holds the sender.
        let _ = self.taken_over.subscribe().wait_for(|taken_over| *taken_over).await;
    }
}

/// Sends a line. Does not block, because the stream is non-blocking and blue may be stopped. The stream has room for the
/// few lines that are sent, unless blue has read none of them and they name thousands of listeners.
fn send(stream: &mut StdStream, message: &FromGreen) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// The next steering needs the last message of blue, and must not begin before that message was acted on.
    #[tokio::test]
    async fn blue_has_closed_when_its_last_word_was_acted_on() {
        let (blue, green) = StdStream::pair().expect("a pair");
        let spawn_info: SpawnInfo =
            serde_json::from_str(r#"{"generation":2,"blue":1,"blue_generation":1,"handover":"x"}"#)
                .expect("the least that there is");
        let (told, mut host_events) = mpsc::channel(1);
        let to_blue = ToBlue::start(Blue::new(green).expect("connected"), &spawn_info, told);
        blue.set_nonblocking(true).expect("set");
        let mut blue = UnixStream::from_std(blue).expect("a stream");
        blue.write_all(b"{\"kind\":\"closed\"}\n").await.expect("written");
        assert!(matches!(host_events.recv().await, Some(BlueEvent::Closed(groups)) if groups.is_empty()));
        let gate = to_blue.closed();
        tokio::pin!(gate);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut gate).await.is_err(), "nothing was done yet");
        to_blue.mark_taken_over();
        gate.await;
        assert!(to_blue.is_closed());
    }
}
