//! One client of the load: connects, sends a request, reads the whole response, and classifies each failure.

use super::answer::{Author, Input, Message, parse};
use super::connection::{Connection, connect};
use super::{EXAMPLES, Mode, PIPELINED, Plan, STREAMS, Shared, Tally};
use rustix::io::Errno;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

const READ: usize = 16 * 1024;
/// The time limit for the end of file after the last response of a connection. No request depends on it.
const FAREWELL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Refused,
    Reset,
    EofBefore,
    EofWithin,
    Timeout,
    Wrong,
    Other,
}

/// The reason for a request without a correct response, by the side that caused the failure.
pub enum Fault {
    Server(Kind, String),
    Client(String),
}

/// The next step with a connection after a response.
enum After {
    AskAgain,
    /// The server has announced that it closes the connection.
    AwaitEof,
    Drop,
}

pub struct Client {
    pub(super) target: SocketAddr,
    pub(super) plan: Arc<Plan>,
    pub(super) shared: Arc<Shared>,
    /// The stop signal: the load drops the sender to stop the clients.
    pub(super) stopped: watch::Receiver<()>,
    request: Vec<u8>,
    /// The number of requests in `request`.
    pub(super) requests: u64,
    /// The number of sent requests without a response.
    pub(super) owed: u64,
    /// The buffer for all responses, so that the hot path allocates nothing.
    buffer: Vec<u8>,
    pub(super) tally: Tally,
    /// The author of the last response. Only a different author takes the lock.
    author: Option<Author>,
    /// The time at which the current connection was begun.
    begun: Instant,
    /// The local port of the current connection, if the connect succeeded.
    port: Option<u16>,
    /// The number of the current request on its connection, from 1.
    pub(super) nth: u64,
}

impl Client {
    pub(super) fn new(number: usize, plan: &Arc<Plan>, shared: &Arc<Shared>, stopped: &watch::Receiver<()>) -> Client {
        let target = plan.targets[number % plan.targets.len()];
        let (version, connection, requests) = match plan.mode {
            Mode::Close => ("1.1", "Connection: close\r\n", 1),
            Mode::KeepAlive => ("1.1", "", 1),
            Mode::KeepAlive10 => ("1.0", "Connection: Keep-Alive\r\n", 1),
            Mode::Pipelined => ("1.1", "", PIPELINED),
            Mode::Http2 => ("2", "", STREAMS),
        };
        let request = format!("GET {} HTTP/{version}\r\nHost: {target}\r\n{connection}\r\n", plan.path);
        Client {
            target,
            plan: Arc::clone(plan),
            shared: Arc::clone(shared),
            stopped: stopped.clone(),
            request: (0..requests).flat_map(|_| request.bytes()).collect(),
            requests,
            owed: 0,
            buffer: Vec::with_capacity(READ),
            tally: Tally::new(),
            author: None,
            begun: Instant::now(),
            port: None,
            nth: 0,
        }
    }

    pub(super) async fn run(mut self) -> Tally {
        let (mut held, mut held_http2) = (None, None);
        // `has_changed` returns an error once the sender is dropped, and costs one atomic load.
        while self.stopped.has_changed().is_ok() {
            let done = match self.plan.mode {
                Mode::Close | Mode::KeepAlive | Mode::KeepAlive10 | Mode::Pipelined => self.round(&mut held).await,
                Mode::Http2 => self.round_http2(&mut held_http2).await,
            };
            match done {
                Ok(()) => {}
                Err(Fault::Server(kind, text)) => {
                    for _ in 0..self.owed {
                        self.tell(kind, &text);
                    }
                    // A refused connect may return without a wait, so the task yields to the other clients.
                    tokio::task::yield_now().await;
                }
                Err(Fault::Client(text)) => {
                    self.shared.change(|seen| seen.broken = Some(text));
                    break;
                }
            }
            if !self.plan.pause.is_zero() {
                // `stop` ends the pause early. No event on the connection does.
                let _ = timeout(self.plan.pause, self.stopped.changed()).await;
            }
        }
        self.tally
    }

    /// Performs one request, or one write of several. A connection that can take another request is left in `held`.
    async fn round(&mut self, held: &mut Option<Connection>) -> Result<(), Fault> {
        let begun = Instant::now();
        self.owed = 1;
        let mut stream = match held.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        self.owed = self.requests;
        let limit = self.plan.timeout;
        let after = match timeout(limit, self.exchange(&mut stream, begun)).await {
            Ok(after) => after?,
            Err(_) => {
                let text = format!("{} bytes of an answer in {limit:?}", self.buffer.len());
                return Err(Fault::Server(Kind::Timeout, text));
            }
        };
        match after {
            After::AskAgain => *held = Some(stream),
            After::AwaitEof => self.await_eof(stream).await,
            After::Drop => {}
        }
        Ok(())
    }

    pub(super) async fn connect(&mut self) -> Result<Connection, Fault> {
        self.begun = Instant::now();
        self.port = None;
        self.nth = 0;
        self.buffer.clear();
        let limit = self.plan.timeout;
        let (stream, port) = match timeout(limit, connect(&self.plan, self.target)).await {
            Ok(connected) => connected?,
            Err(_) => {
                let text = format!("no connection in {limit:?}");
                return Err(Fault::Server(Kind::Timeout, text));
            }
        };
        self.tally.connections += 1;
        self.port = Some(port);
        Ok(stream)
    }

    async fn exchange(&mut self, stream: &mut Connection, begun: Instant) -> Result<After, Fault> {
        self.buffer.clear();
        let written = stream.write_all(&self.request).await;
        written.map_err(|e| fault("write", &e))?;
        loop {
            self.nth += 1;
            let after = self.answer(stream).await?;
            self.owed -= 1;
            let latency = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.tally.latency.saturating_record(latency);
            self.shared.count_answer();
            match after {
                _ if self.owed == 0 => return Ok(after),
                After::AskAgain => {}
                After::AwaitEof | After::Drop => {
                    let text = format!("the last answer, and {} more requests were sent before it", self.owed);
                    return Err(Fault::Server(Kind::EofBefore, text));
                }
            }
        }
    }

    /// Reads one response, and leaves the bytes after it in the buffer.
    async fn answer(&mut self, stream: &mut Connection) -> Result<After, Fault> {
        let mut input = Input::Open;
        loop {
            if let Some(message) = parse(&self.buffer, input).map_err(wrong)? {
                let more = self.buffer.len() - message.length;
                if more > 0 && self.owed == 1 {
                    return Err(wrong(format!("{more} bytes after the end of the answer")));
                }
                let author = self.plan.answer.judge(&message).map_err(wrong)?;
                let (after, length) = (self.after(&message, input), message.length);
                self.buffer.drain(..length);
                self.note(author);
                return Ok(after);
            }
            match input {
                Input::Open => {}
                Input::Ended if self.buffer.is_empty() => {
                    return Err(Fault::Server(Kind::EofBefore, "end of file".into()));
                }
                Input::Ended => {
                    let text = format!("end of file after {} bytes", self.buffer.len());
                    return Err(Fault::Server(Kind::EofWithin, text));
                }
            }
            self.buffer.reserve(READ);
            let read = stream.read_buf(&mut self.buffer).await;
            if read.map_err(|e| fault("read", &e))? == 0 {
                input = Input::Ended;
            }
        }
    }

    fn after(&self, message: &Message<'_>, input: Input) -> After {
        match (self.plan.mode, input) {
            (_, Input::Ended) => After::Drop,
            // The server closes first, so that TIME_WAIT does not use up the client's ports.
            (_, Input::Open) if message.last => After::AwaitEof,
            (Mode::KeepAlive | Mode::KeepAlive10 | Mode::Pipelined, Input::Open) => After::AskAgain,
            (Mode::Close | Mode::Http2, Input::Open) => After::Drop,
        }
    }

    pub(super) fn note(&mut self, author: Option<Author>) {
        if let Some(Author { generation, .. }) = author {
            *self.tally.answered_by.entry(generation).or_default() += 1;
        }
        let Some(new) = author.filter(|_| author != self.author) else {
            return;
        };
        self.author = author;
        self.shared.change(|seen| {
            seen.generations.insert(new.generation);
            seen.pids.insert(new.pid);
        });
    }

    /// Waits for the end of file. The response is already counted, so an error here loses no request.
    async fn await_eof(&mut self, mut stream: Connection) {
        let _ = timeout(FAREWELL, async {
            loop {
                self.buffer.clear();
                match stream.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        })
        .await;
    }

    pub(super) fn tell(&self, kind: Kind, text: &str) {
        self.shared.change(|seen| {
            seen.failures.count(kind);
            seen.last_lost = seen.last_lost.max(Some(self.begun));
            seen.lost_reused += u64::from(self.nth > 1);
            if seen.examples.len() < EXAMPLES {
                let port = self.port.map_or("none".into(), |port| port.to_string());
                seen.examples.push(format!(
                    "{} ms: {kind:?}: {text}; port {port} to {}, request {} of its connection",
                    self.shared.begun.elapsed().as_millis(),
                    self.target,
                    self.nth,
                ));
            }
        });
    }
}

fn wrong(text: String) -> Fault {
    Fault::Server(Kind::Wrong, text)
}

/// Classifies an error. The text of an `io::Error` contains the errno.
pub fn fault(operation: &str, error: &io::Error) -> Fault {
    let text = format!("{operation}: {error}");
    let kind = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::CONNREFUSED) => Kind::Refused,
        Some(Errno::CONNRESET | Errno::PIPE) => Kind::Reset,
        Some(Errno::TIMEDOUT) => Kind::Timeout,
        Some(Errno::ADDRNOTAVAIL) => {
            return Fault::Client(format!("no free port: {text}"));
        }
        Some(Errno::MFILE | Errno::NFILE) => {
            return Fault::Client(format!("no free descriptor: {text}"));
        }
        Some(Errno::NOBUFS | Errno::NOMEM) => {
            return Fault::Client(format!("no memory: {text}"));
        }
        Some(_) | None => Kind::Other,
    };
    Fault::Server(kind, text)
}
