//! One accepted connection, counted for as long as any part of it lives.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::connections::Guard;
use crate::sys::socket;

/// What the parts of one connection share.
#[derive(Debug)]
pub(crate) struct Shared {
    tcp: TcpStream,
    peer: SocketAddr,
    pub(crate) guard: Guard,
    /// Bytes have come since the last request was handed to the application.
    unheard: AtomicBool,
    /// Requests that were handed to the application, ever.
    requests: AtomicU32,
    /// Requests whose answers are not sent yet.
    answering: AtomicU32,
}

impl Shared {
    fn heard(&self) {
        self.unheard.store(false, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests have come so far; it may wrap.
    pub(crate) fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether a request is being answered.
    pub(crate) fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed) > 0
    }

    /// No request has come yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.requests() == 0
    }

    /// Nothing of a next request has come, neither to us nor to the kernel.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.unheard.load(Ordering::Relaxed) && !socket::has_unread(&self.tcp)
    }

    /// Reads what the peer still sends, and forgets it, so that the close sends a FIN and not a reset which would
    /// overtake the answer (RFC 9112, 9.6). Ends when the peer has closed.
    pub(crate) async fn read_to_nowhere(&self) {
        loop {
            if self.tcp.readable().await.is_err() {
                return;
            }
            // Not kept across an await: it would be a part of the future of each connection.
            let mut nowhere = [0; 4096];
            match self.tcp.try_read(&mut nowhere) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// One request that is being answered, until this is dropped.
#[derive(Debug)]
pub(crate) struct Answering(pub(crate) Arc<Shared>);

impl Answering {
    /// A request was handed to the application: what has come so far is heard.
    pub(crate) fn begin(shared: &Arc<Shared>) -> Answering {
        shared.heard();
        shared.answering.fetch_add(1, Ordering::Relaxed);
        Answering(shared.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A TCP connection that counts as one of its generation's until it is dropped.
///
/// A generation that retires is gone when the last of its streams is dropped, or when the drain timeout is over.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    /// What was read and put back: the next read begins with it.
    first: Bytes,
}

impl Stream {
    pub(crate) fn new(tcp: TcpStream, peer: SocketAddr, guard: Guard) -> Stream {
        let (unheard, requests, answering) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
        let shared = Arc::new(Shared { tcp, peer, guard, unheard, requests, answering });
        Stream { shared, first: Bytes::new() }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Waits until there is something to be read. Cancel safe.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.shared.tcp.readable().await
    }

    /// Gives back what was read, before anything else is read.
    pub(crate) fn put_back(&mut self, first: Bytes) {
        self.first = first;
    }

    /// The client's address.
    pub fn peer_addr(&self) -> SocketAddr {
        self.shared.peer
    }

    /// The address that the client connected to.
    ///
    /// # Errors
    /// What getsockname(2) says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.tcp.local_addr()
    }

    /// Turns TCP_NODELAY (tcp(7)) on or off; it is on by default.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.shared.tcp.set_nodelay(nodelay)
    }

    /// Waits until this generation retires or stops, so that the application can say goodbye in its own protocol.
    ///
    /// Cancel safe. Returns at once if it retires already.
    pub async fn retiring(&self) {
        self.shared.guard.connections().leaving().await;
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
            ready!(self.shared.tcp.poll_read_ready(cx))?;
            let mut read = None;
            let tried = self.shared.tcp.try_io(Interest::READABLE, || {
                let count = socket::read(&self.shared.tcp, buf)?;
                read = Some(count);
                // A buffer that was not filled shows that nothing is left (epoll(7), question 9): said as if the next read
                // had failed, which saves that system call.
                if count > 0 && buf.remaining() > 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match (read, tried) {
                (Some(count), _) => {
                    if count > 0 {
                        self.shared.unheard.store(true, Ordering::Relaxed);
                    }
                    return Poll::Ready(Ok(()));
                }
                (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                (None, _) => {}
            }
        }
    }
}

impl Stream {
    fn poll_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.shared.tcp.poll_write_ready(cx))?;
            match write(&self.shared.tcp) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |tcp| tcp.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |tcp| tcp.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match socket2::SockRef::from(&self.shared.tcp).shutdown(std::net::Shutdown::Write) {
            // The peer has closed already: there is nothing left to shut down.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}
