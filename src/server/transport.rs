//! What HTTP is served on: the socket of a connection, or what a layer such as TLS has made of it.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection_info::ConnectionInfo;
use crate::runtime::stream::Stream;

/// A connection as HTTP reads and writes it: plain, or what TLS has made of it.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {
    /// How many bytes at most the transport has read from the socket, and HTTP not from the transport; a part of a byte
    /// counts as one. `is_full`: whether the last read from the transport has filled its buffer.
    fn read_ahead(&mut self, is_full: bool) -> usize;

    /// Adds what the transport knows of the connection.
    fn describe(&self, info: ConnectionInfo) -> ConnectionInfo {
        info
    }

    /// Tells the peer that nothing follows, without waiting, where the end of the socket does not tell that.
    fn say_end(&mut self) {}

    /// Waits until there may be something to be read. Cancel safe.
    fn readable(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

impl Transport for Stream {
    fn read_ahead(&mut self, _: bool) -> usize {
        0
    }

    async fn readable(&mut self) -> io::Result<()> {
        Stream::readable(self).await
    }
}
