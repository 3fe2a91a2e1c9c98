//! What HTTP is served on: the socket of a connection, or what a layer such as TLS has made of it.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection_info::ConnectionInfo;
use crate::runtime::stream::Stream;

/// A connection as HTTP reads and writes it: plain, or what TLS has made of it.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {
    /// Whether the transport may have read more from the socket than HTTP has read from the transport.
    const READS_AHEAD: bool;

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
    const READS_AHEAD: bool = false;

    async fn readable(&mut self) -> io::Result<()> {
        Stream::readable(self).await
    }
}
