//! The bytes of an HTTP connection, on top of its transport: requests are followed as hyper reads them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::runtime::connections::Kind;
use crate::runtime::stream::Shared;
use crate::server::transport::Transport;

/// A transport whose requests are followed: see [`Pipeline`](crate::model::pipeline::Pipeline).
pub(super) struct TrackedIo<T: Transport> {
    transport: T,
    shared: Arc<Shared>,
    /// Bytes that were read and put back. The next read returns these bytes first.
    first: Bytes,
}

impl<T: Transport> TrackedIo<T> {
    pub(super) fn new(transport: T, shared: Arc<Shared>) -> TrackedIo<T> {
        TrackedIo { transport, shared, first: Bytes::new() }
    }

    /// Waits until there may be something to be read. Cancel safe.
    pub(super) async fn readable(&mut self) -> io::Result<()> {
        self.transport.readable().await
    }

    /// Puts back the bytes that were read first.
    pub(super) fn put_back(&mut self, first: Bytes) {
        self.first = first;
    }
}

/// An upgraded connection ends when the application drops it, and libraries of WebSocket do no more than that. An HTTP
/// connection is ended by hyper, or given up while nothing comes; one that is dropped within a response must not look
/// whole.
impl<T: Transport> Drop for TrackedIo<T> {
    fn drop(&mut self) {
        if self.shared.guard.is(Kind::Upgraded) || !self.shared.is_answering() {
            self.transport.say_end();
        }
    }
}

impl<T: Transport> AsyncRead for TrackedIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let count = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.transport).poll_read(cx, buf);
        let read_ahead = self.transport.read_ahead(read.is_ready() && buf.remaining() == 0);
        self.shared.read_ahead.store(u32::try_from(read_ahead).unwrap_or(u32::MAX), Ordering::Relaxed);
        ready!(read)?;
        if buf.filled().len() > before {
            self.shared.pipeline().received(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Transport> AsyncWrite for TrackedIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.unsent.store(true, Ordering::Relaxed);
        Pin::new(&mut self.transport).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.unsent.store(true, Ordering::Relaxed);
        Pin::new(&mut self.transport).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    /// hyper flushes when its own buffer is empty (`Buffered::poll_flush` in src/proto/h1/io.rs, hyper 1.12).
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
        self.shared.unsent.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
