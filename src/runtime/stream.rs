//! One accepted connection, counted for as long as any part of it lives.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

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
    /// A request was handed to the application, ever.
    served: AtomicBool,
    /// A request of HTTP/2 has come on it.
    http2: AtomicBool,
    pub(crate) http2_seen: Notify,
}

impl Shared {
    /// A request was handed to the application: what has come so far is heard.
    pub(crate) fn heard(&self) {
        self.unheard.store(false, Ordering::Relaxed);
        self.served.store(true, Ordering::Relaxed);
    }

    /// No request has come yet.
    pub(crate) fn is_fresh(&self) -> bool {
        !self.served.load(Ordering::Relaxed)
    }

    pub(crate) fn saw_http2(&self) {
        if !self.http2.swap(true, Ordering::Relaxed) {
            self.http2_seen.notify_one();
        }
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// Nothing of a next request has come, neither to us nor to the kernel.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.unheard.load(Ordering::Relaxed) && !socket::has_unread(&self.tcp)
    }

    /// Reads what the peer still sends, and forgets it, so that the close sends a FIN and not a reset which would
    /// overtake the answer (RFC 9112, 9.6). Ends when the peer has closed.
    pub(crate) async fn read_to_nowhere(&self) {
        let mut nowhere = [0; 4096];
        loop {
            if self.tcp.readable().await.is_err() {
                return;
            }
            match self.tcp.try_read(&mut nowhere) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// A TCP connection that counts as one of its generation's until it is dropped.
///
/// A generation that retires is gone when the last of its streams is dropped, or when the drain timeout is over.
#[derive(Debug)]
pub struct Stream(Arc<Shared>);

impl Stream {
    pub(crate) fn new(tcp: TcpStream, peer: SocketAddr, guard: Guard) -> Stream {
        Stream(Arc::new(Shared {
            tcp,
            peer,
            guard,
            unheard: AtomicBool::new(false),
            served: AtomicBool::new(false),
            http2: AtomicBool::new(false),
            http2_seen: Notify::new(),
        }))
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.0.clone()
    }

    /// The client's address.
    pub fn peer_addr(&self) -> SocketAddr {
        self.0.peer
    }

    /// The address that the client connected to.
    ///
    /// # Errors
    /// What getsockname(2) says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.tcp.local_addr()
    }

    /// Turns TCP_NODELAY (tcp(7)) on or off; it is on by default.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.0.tcp.set_nodelay(nodelay)
    }

    /// Waits until this generation retires or stops, so that the application can say goodbye in its own protocol.
    ///
    /// Cancel safe. Returns at once if it retires already.
    pub async fn retiring(&self) {
        self.0.guard.connections().leaving().await;
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.tcp.poll_read_ready(cx))?;
            match self.0.tcp.try_read_buf(buf) {
                Ok(count) => {
                    if count > 0 {
                        self.0.unheard.store(true, Ordering::Relaxed);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
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
            ready!(self.0.tcp.poll_write_ready(cx))?;
            match write(&self.0.tcp) {
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
        match socket2::SockRef::from(&self.0.tcp).shutdown(std::net::Shutdown::Write) {
            // The peer has closed already: there is nothing left to shut down.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}
