//! What stands between the socket of a connection and HTTP: nothing, TLS, or what the user makes of the connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::transport::Transport;
use crate::config::ProxyProtocol;
use crate::runtime::stream::Stream;

/// How many bytes a user's own transport may have read from the socket, and HTTP not from the transport: four records of
/// TLS (RFC 8446, 5.1).
const OWN_READ_AHEAD_MAX: usize = 64 * 1024;

/// The transport of a user's own acceptor.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

type Accepting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// The acceptor of a user: see [`Server::acceptor`](crate::Server::acceptor).
pub(crate) type OwnAcceptor = Arc<dyn Fn(Stream) -> Accepting + Send + Sync>;

/// Makes the transport of each connection of a server.
pub(super) enum Acceptor {
    Plain,
    #[cfg(feature = "tls")]
    Tls(tokio_rustls::TlsAcceptor),
    Own(OwnAcceptor),
}

/// What stands between the sockets of a server and HTTP.
pub(super) struct Layers {
    pub(super) proxy_protocol: ProxyProtocol,
    pub(super) acceptor: Acceptor,
}

impl Layers {
    /// HTTP on the sockets themselves.
    pub(super) const NONE: Layers = Layers { proxy_protocol: ProxyProtocol::Off, acceptor: Acceptor::Plain };
}

/// Hides the types of a user's acceptor.
pub(super) fn own<A, T>(accept: impl Fn(Stream) -> A + Send + Sync + 'static) -> OwnAcceptor
where
    A: Future<Output = io::Result<T>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Arc::new(move |stream| {
        let accepting = accept(stream);
        Box::pin(async move { Ok(Box::new(accepting.await?) as Box<dyn Io>) })
    })
}

impl Transport for Box<dyn Io + '_> {
    /// A transport that could have filled more of the buffer has no more bytes.
    fn read_ahead(&mut self, is_full: bool) -> usize {
        if is_full { OWN_READ_AHEAD_MAX } else { 0 }
    }

    async fn readable(&mut self) -> io::Result<()> {
        Ok(())
    }
}
