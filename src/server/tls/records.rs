//! The socket below TLS, and whether a part of a record has been read from the socket.
//!
//! A record is decrypted when all of it has come. Until then its bytes are neither in the socket nor in what HTTP reads, and
//! a request may be in them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::model::frames::TlsRecords;
use crate::runtime::stream::Stream;

/// A connection whose records are followed as TLS reads them.
#[derive(Debug)]
pub(in crate::server) struct RecordStream {
    stream: Stream,
    records: TlsRecords,
}

impl RecordStream {
    /// Before the first record.
    pub(in crate::server) fn new(stream: Stream) -> RecordStream {
        RecordStream { stream, records: TlsRecords::new() }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Whether a part of a record has been read, and not all of it.
    pub(super) fn is_within_record(&self) -> bool {
        !self.records.is_between()
    }
}

impl AsyncRead for RecordStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.records.follow(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RecordStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
