//! One accepted connection, counted for as long as any part of it lives.

mod proxy_header;

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::time::Instant;

use super::connections::{Guard, Stage};
use super::requests::{NoResponse, Requests};
use crate::model::pipeline::{Framing, Pipeline};
use crate::sys::socket::{self, AsyncSocket};

/// The addresses that the header of a proxy has named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Proxied {
    source: SocketAddr,
    destination: SocketAddr,
}

/// What the parts of one connection share.
#[derive(Debug)]
pub(crate) struct Shared {
    socket: AsyncSocket,
    peer: Option<SocketAddr>,
    /// Boxed, because most servers have no proxy in front.
    proxied: OnceLock<Box<Proxied>>,
    pub(crate) guard: Guard,
    /// How often bytes were read from the socket; the count may wrap.
    reads: AtomicU32,
    /// How often bytes were written to the socket; the count may wrap.
    writes: AtomicU32,
    /// Since when this connection is to end although its generation serves, and how long it may be idle until then.
    end: OnceLock<(Instant, Duration)>,
    /// Never contended: only the half of the connection that reads takes this lock, and the task that serves HTTP.
    pipeline: Mutex<Pipeline>,
    /// Number of requests that were handed to the application so far.
    requests: AtomicU32,
    /// Number of requests whose answers are not sent yet.
    answering: AtomicU32,
    /// Whether HTTP/2 has a tunnel: a stream that CONNECT has opened.
    pub(crate) tunnelled: AtomicBool,
    /// How many bytes at most the transport above the socket has, and HTTP has not read yet.
    pub(crate) read_ahead: AtomicU32,
    /// Whether something was written that is not flushed yet: hyper drops the body of a response before the last bytes of
    /// the body are sent.
    pub(crate) unsent: AtomicBool,
}

impl Shared {
    /// The requests of HTTP/1 that have come.
    pub(crate) fn pipeline(&self) -> MutexGuard<'_, Pipeline> {
        self.pipeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests have come so far. The number may wrap.
    pub(crate) fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// The client's address; `None` on a Unix socket.
    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        self.proxied.get().map(|proxied| proxied.source).or(self.peer)
    }

    /// The address that the client connected to; `Unsupported` on a Unix socket.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        if let Some(proxied) = self.proxied.get() {
            return Ok(proxied.destination);
        }
        let local = socket2::SockRef::from(&self.socket).local_addr()?;
        local.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// How often bytes have come from the peer, of TLS or of HTTP. The number may wrap.
    pub(crate) fn reads(&self) -> u32 {
        self.reads.load(Ordering::Relaxed)
    }

    /// How often bytes have gone to the peer. The number may wrap.
    pub(crate) fn writes(&self) -> u32 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Ends this connection as if its generation retired: it is told with the next response, or when it has been idle for
    /// `grace`.
    pub(crate) fn end_after(&self, grace: Duration) {
        // An earlier call counts.
        let _ = self.end.set((Instant::now(), grace));
    }

    /// The stage of the generation, or that of this connection alone if it is to end before.
    pub(crate) fn stage(&self, of_generation: Stage) -> Stage {
        match (of_generation, self.end.get()) {
            (Stage::Serving, Some((since, grace))) => Stage::Retiring { since: *since, grace: *grace },
            (stage, _) => stage,
        }
    }

    /// Whether this connection takes no further request after those that have come. Costs two loads.
    pub(crate) fn is_leaving(&self) -> bool {
        self.guard.connections().is_leaving() || self.end.get().is_some()
    }

    /// Whether a request is being answered: from the moment at which the application has the request to the moment at which
    /// the kernel has the last byte of the response. HTTP/1 only.
    pub(crate) fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed) > 0 || self.unsent.load(Ordering::Relaxed)
    }

    /// Whether something was written that the kernel has not taken yet.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent.load(Ordering::Relaxed)
    }

    /// Whether no request has come yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.requests() == 0
    }

    /// Whether anything of a next request of HTTP/1 has come, to us or to the kernel. Under TLS the answer may be yes
    /// although only the rest of a body has come, whose records are longer than the body.
    pub(crate) fn waits(&self) -> bool {
        let (waits, body_left) = {
            let pipeline = self.pipeline();
            (pipeline.waits(), pipeline.body_left())
        };
        let read_ahead = u64::from(self.read_ahead.load(Ordering::Relaxed));
        waits || read_ahead + socket::unread(&self.socket) > body_left
    }

    /// Ends the connection in both directions, even while other parts of this connection are held.
    pub(crate) fn cut(&self) {
        // Fails if the peer has ended the connection already.
        let _ = self.shutdown(Shutdown::Both);
    }

    /// Ends the connection for writing, and discards what the peer still sends, so that the close sends a FIN and not a
    /// reset, which would overtake the answer (RFC 9112, 9.6). Returns when the peer has closed, or has sent nothing for
    /// `silence`.
    pub(crate) async fn close_gently(&self, silence: Duration) {
        // hyper has done this already, except for a connection that was given up. Fails if the peer has ended the
        // connection.
        let _ = self.shutdown(Shutdown::Write);
        loop {
            let Ok(Ok(mut readable)) = tokio::time::timeout(silence, self.socket.readable()).await else { return };
            // Not kept across an await: the buffer would be a part of the future of each connection.
            let mut nowhere = [0; 4096];
            // Without a result, nothing is left to be read for now.
            let read = readable.try_io(|socket| socket::read(socket, &mut ReadBuf::new(&mut nowhere)));
            if let Ok(Ok(0) | Err(_)) = read {
                return;
            }
        }
    }

    fn shutdown(&self, direction: Shutdown) -> io::Result<()> {
        socket2::SockRef::from(&self.socket).shutdown(direction)
    }
}

/// One request that is being answered, until this value is dropped.
#[derive(Debug)]
pub(crate) struct Answering {
    pub(crate) connection: Arc<Shared>,
    /// When the application has got the request; `None` if the request is not counted, or has been.
    begun: Option<std::time::Instant>,
    has_response: bool,
}

impl Answering {
    /// Begins an answer: a request was handed to the application, or to a service whose requests are not counted. A
    /// request of HTTP/1 has a framing.
    pub(crate) fn begin(shared: &Arc<Shared>, framing: Option<Framing>, is_counted: bool) -> Answering {
        if let Some(framing) = framing {
            shared.pipeline().framed(framing);
        }
        shared.requests.fetch_add(1, Ordering::Relaxed);
        shared.answering.fetch_add(1, Ordering::Relaxed);
        let begun = is_counted.then(std::time::Instant::now);
        Answering { connection: shared.clone(), begun, has_response: false }
    }

    /// The application has made a response with this status.
    pub(crate) fn responds(&mut self, status: u16) {
        self.has_response = true;
        if let Some(begun) = self.begun {
            self.requests().responded(status, begun.elapsed());
        }
    }

    /// The application has made an error.
    pub(crate) fn fails(&mut self) {
        if self.begun.take().is_some() {
            self.requests().not_responded(NoResponse::Error);
        }
    }

    fn requests(&self) -> &Requests {
        self.connection.guard.connections().requests()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.connection.answering.fetch_sub(1, Ordering::Relaxed);
        match self.begun {
            Some(begun) if self.has_response => self.requests().to_end.add(begun.elapsed()),
            Some(_) if std::thread::panicking() => self.requests().not_responded(NoResponse::Panic),
            Some(_) => self.requests().not_responded(NoResponse::Cancelled),
            None => {}
        }
    }
}

/// A connection that counts as one of its generation's until it is dropped.
///
/// A generation that retires is gone when the last of its streams is dropped, or when the drain timeout is over.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    /// Bytes that were read and put back. The next read returns these bytes first.
    first: Bytes,
}

impl Stream {
    /// # Errors
    /// Errors of epoll_ctl(2).
    pub(crate) fn new(socket: OwnedFd, peer: Option<SocketAddr>, guard: Guard) -> io::Result<Stream> {
        let socket = socket::watch(socket, Interest::READABLE | Interest::WRITABLE)?;
        let pipeline = Mutex::new(Pipeline::unknown());
        let [reads, writes, requests, answering, read_ahead] = [(); 5].map(|()| AtomicU32::new(0));
        let [tunnelled, unsent] = [(); 2].map(|()| AtomicBool::new(false));
        let proxied = OnceLock::new();
        let end = OnceLock::new();
        let shared = Arc::new(Shared {
            socket,
            peer,
            proxied,
            guard,
            reads,
            writes,
            end,
            pipeline,
            requests,
            answering,
            tunnelled,
            read_ahead,
            unsent,
        });
        Ok(Stream { shared, first: Bytes::new() })
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Waits until there is something to be read. Cancel safe.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        if self.first.is_empty() {
            let _ready = self.shared.socket.readable().await?;
        }
        Ok(())
    }

    /// Puts back the bytes that were read first. Later reads return these bytes before any others.
    pub(crate) fn put_back(&mut self, first: Bytes) {
        self.first = first;
    }

    /// The client's address; `None` on a Unix socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.shared.peer_addr()
    }

    /// The address that the client connected to.
    ///
    /// # Errors
    /// Errors of getsockname(2); `Unsupported` on a Unix socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.local_addr()
    }

    /// Turns TCP_NODELAY (tcp(7)) on or off; it is on by default.
    ///
    /// # Errors
    /// Errors of setsockopt(2).
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        socket2::SockRef::from(&self.shared.socket).set_tcp_nodelay(nodelay)
    }

    /// Waits until this generation retires or stops, so that the application can end the connection in its own
    /// protocol.
    ///
    /// Cancel safe. Returns at once if this generation retires or stops already.
    pub async fn retiring(&self) {
        self.shared.guard.connections().leaving().await;
    }

    /// Waits until the drain of this generation is over, by its [timeout](crate::Server::drain_timeout) or by SIGUSR2:
    /// the process ends as soon as all streams are dropped, and one second later at the latest.
    ///
    /// Cancel safe. Returns at once if the drain is over already.
    pub async fn drain_ended(&self) {
        self.shared.guard.connections().force_closed().await;
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let count = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first.split_to(count));
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut readable = ready!(self.shared.socket.poll_read_ready(cx))?;
            let Ok(read) = readable.try_io(|socket| socket::read(socket, buf)) else { continue };
            let count = read?;
            if count > 0 {
                self.shared.reads.fetch_add(1, Ordering::Relaxed);
                // A buffer that was not filled shows that nothing is left (epoll(7), question 9). Recording this saves
                // the next read(2), which would fail with `EAGAIN`.
                if buf.remaining() > 0 {
                    readable.clear_ready();
                }
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl Stream {
    /// Writes what the kernel has room for, without waiting.
    ///
    /// # Errors
    /// Errors of send(2); `WouldBlock` if there is no room.
    #[cfg(feature = "tls")]
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        socket::write(&self.shared.socket, bytes)
    }

    fn poll_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&AsyncSocket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut writable = ready!(self.shared.socket.poll_write_ready(cx))?;
            if let Ok(written) = writable.try_io(&write) {
                self.shared.writes.fetch_add(1, Ordering::Relaxed);
                return Poll::Ready(written);
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |socket| socket::write(socket, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |socket| socket::write_vectored(socket, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.shared.shutdown(Shutdown::Write) {
            // The peer has closed already: there is nothing left to shut down.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}
