//! The stream socket between two generations: lines of JSON, with a limit on their length.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use crate::model::handover::{Drainer, FromBlue, FromGreen, GroupOrder, History, SpawnInfo};
use crate::model::identity::{Generation, Pid};
use crate::sys::during;
use crate::sys::process::HeldProcess;

/// The longest line that is read, in bytes. A group of a thousand listeners needs 16 kB.
const LINE_MAX: u64 = 1 << 20;

/// How long a ready green may take to send the order of its listeners. Without the order everything works, but the
/// generation after green does not know the order of the slots.
const TOLD: Duration = Duration::from_millis(20);

/// How long a live green may take to report that it is live. A program that does not speak this protocol never reports
/// it.
const LIVE_MAX: Duration = Duration::from_secs(10);

/// Blue's end of the socket.
#[derive(Debug, Clone)]
pub(crate) struct ToGreen {
    told: watch::Receiver<Option<Vec<GroupOrder>>>,
    /// Becomes true when green has said that it is live.
    live: watch::Receiver<bool>,
    lines: mpsc::UnboundedSender<String>,
}

/// Binds the abstract address that green will connect to.
pub(crate) fn bind(name: &str) -> io::Result<UnixListener> {
    let address = SocketAddr::from_abstract_name(name)?;
    let listener = StdListener::bind_addr(&address).map_err(|e| during("bind the handover socket", e))?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

impl ToGreen {
    /// Waits for the connection of green in the background, and refuses every other process.
    pub(crate) fn start(listener: UnixListener, green: Pid) -> ToGreen {
        let (told, told_here) = watch::channel(None);
        let (live, live_here) = watch::channel(false);
        let (lines, to_write) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let Some(stream) = accept_from(listener, green).await else { return };
            let (read, write) = stream.into_split();
            let writer = tokio::spawn(write_lines(write, to_write));
            let mut read = BufReader::new(read);
            while let Ok(Some(message)) = read_line(&mut read).await {
                match message {
                    FromGreen::Listening { groups } => {
                        told.send_replace(Some(groups));
                    }
                    FromGreen::Live => {
                        live.send_replace(true);
                    }
                    FromGreen::Unknown => {}
                }
            }
            // Green may have closed only its own direction; blue's direction stays open until this process ends.
            let _ = writer.await;
        });
        ToGreen { told: told_here, live: live_here, lines }
    }

    /// The order in which green's listeners joined, if green sends it. Green sends the order just before READY=1, but
    /// on another socket, so that READY=1 may be read a moment before the order.
    pub(crate) fn told(&self) -> impl Future<Output = Vec<GroupOrder>> + Send + use<> {
        let mut told = self.told.clone();
        async move {
            let waited = tokio::time::timeout(TOLD, told.wait_for(Option::is_some)).await;
            waited.ok().and_then(|told| told.ok()?.clone()).unwrap_or_default()
        }
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
        if let Ok(line) = serde_json::to_string(message) {
            let _ = self.lines.send(line);
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

async fn write_lines(mut write: OwnedWriteHalf, mut lines: mpsc::UnboundedReceiver<String>) {
    while let Some(mut line) = lines.recv().await {
        line.push('\n');
        if write.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads one message; `None` at the end of the stream.
async fn read_line<T: DeserializeOwned>(from: &mut BufReader<impl AsyncRead + Unpin>) -> io::Result<Option<T>> {
    let mut line = String::new();
    let count = from.take(LINE_MAX).read_line(&mut line).await?;
    if count == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).map_err(io::Error::from)
}

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

impl ToBlue {
    /// Begins to read the messages of blue. The end of the stream tells green that blue is gone.
    pub(crate) fn start<E: From<BlueEvent> + Send + 'static>(
        blue: StdStream,
        spawn_info: &SpawnInfo,
        told: mpsc::Sender<E>,
    ) -> io::Result<ToBlue> {
        let (process, by) = (HeldProcess::hold(spawn_info.blue), spawn_info.blue_generation);
        let writing = blue.try_clone()?;
        blue.set_nonblocking(true)?;
        let mut read = BufReader::new(UnixStream::from_std(blue)?);
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
        Ok(ToBlue { stream: Arc::new(Mutex::new(writing)), taken_over: Arc::new(watch::Sender::new(false)) })
    }

    /// Tells blue in which order the listeners joined. An error is not reported here: the reader of the stream notices
    /// that blue is gone.
    pub(crate) fn listening(&self, groups: Vec<GroupOrder>) {
        self.send(&FromGreen::Listening { groups });
    }

    /// Tells blue that this generation has taken its leadership.
    pub(crate) fn live(&self) {
        self.send(&FromGreen::Live);
    }

    /// Does not block, because the stream is non-blocking and blue may be stopped. The stream has room for the few
    /// lines that are sent, unless blue has read none of them and they name thousands of listeners.
    fn send(&self, message: &FromGreen) {
        use std::io::Write as _;
        if let Ok(mut line) = serde_json::to_vec(message) {
            line.push(b'\n');
            let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = stream.write_all(&line) {
                tracing::debug!(%error, "the previous generation does not read the handover socket, ignoring");
                // A part of the line may be sent, and a next line would continue that part. Fails if blue is gone.
                let _ = stream.shutdown(std::net::Shutdown::Write);
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::notify_socket::unique_name;

    #[tokio::test]
    async fn only_the_process_that_was_spawned_is_listened_to() {
        let name = unique_name("test").expect("random");
        let listener = bind(&name).expect("bind");
        let waiting = tokio::spawn(accept_from(listener, Pid::new(1)));
        let address = SocketAddr::from_abstract_name(&name).expect("name");
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

    /// The next steering needs the last message of blue, and must not begin before that message was acted on.
    #[tokio::test]
    async fn blue_has_closed_when_its_last_word_was_acted_on() {
        let (blue, green) = StdStream::pair().expect("a pair");
        let spawn_info: SpawnInfo =
            serde_json::from_str(r#"{"generation":2,"blue":1,"blue_generation":1,"handover":"x"}"#)
                .expect("the least that there is");
        let (told, mut host_events) = mpsc::channel(1);
        let to_blue = ToBlue::start(green, &spawn_info, told).expect("connected");
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

    #[tokio::test]
    async fn a_line_that_never_ends_is_an_error_and_not_a_heap() {
        let endless = vec![b'x'; (LINE_MAX + 10) as usize];
        let mut reader = BufReader::new(&endless[..]);
        read_line::<FromGreen>(&mut reader).await.expect_err("too long");
    }
}
