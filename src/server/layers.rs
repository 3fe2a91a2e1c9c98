//! The options of a server for what stands between the sockets and HTTP.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use super::Server;
use super::acceptor::{self, Acceptor, Layers};
use super::handover::Supply;
#[cfg(feature = "tls")]
use super::tls::TlsConfig;
use crate::config::ProxyProtocol;
use crate::error::Error;
#[cfg(feature = "tls")]
use crate::error::ErrorKind;
use crate::runtime::stream::Stream;

impl Server {
    /// Speaks TLS on all addresses of the application, and offers HTTP/2 and HTTP/1.1 by ALPN. Default: plain HTTP.
    ///
    /// A client that has a session ticket of one generation resumes its session at the next generation: the keys of the
    /// tickets change every six hours, go from generation to generation over a socket, and are never written to a disk
    /// or to a log. A retiring generation finishes the handshakes that are in flight. A handshake may take as long as
    /// the [`header_read_timeout`](Server::header_read_timeout).
    ///
    /// For HTTP only: a server that [`listen`](Server::listen)s gives each [`Stream`] to a TLS acceptor
    /// itself.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, config: impl Into<TlsConfig>) -> Server {
        self.tls = Some(config.into());
        self
    }

    /// Serves HTTP on what `accept` makes of each connection: TLS of another kind, or a protocol that comes before HTTP.
    /// Default: the connection itself.
    ///
    /// The responses that a retiring generation sends, and the closes of its connections, are as lossless as on a plain
    /// connection. An error of `accept` closes the connection. `accept` may take as long as the
    /// [`header_read_timeout`](Server::header_read_timeout), and is dropped then.
    ///
    /// ```no_run
    /// # async fn example(acceptor: tokio_rustls::TlsAcceptor) -> Result<(), cutover::Error> {
    /// cutover::Server::bind("[::]:443")
    ///     .acceptor(move |stream| acceptor.accept(stream))
    ///     .serve(axum::Router::new())
    ///     .await
    /// # }
    /// ```
    pub fn acceptor<A, T>(mut self, accept: impl Fn(Stream) -> A + Send + Sync + 'static) -> Server
    where
        A: Future<Output = io::Result<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.acceptor = Some(acceptor::own(accept));
        self
    }

    /// What this server serves HTTP on, and what it passes on to the next generation.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`]; [`ErrorKind::Config`] if there are two acceptors.
    pub(super) fn make_layers(&self) -> Result<(Layers, Supply), Error> {
        let state = self.state.clone();
        let proxy_protocol = self.config.proxy_protocol;
        let own = self.acceptor.clone().map(Acceptor::Own);
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            if own.is_some() {
                return Err(Error::new(ErrorKind::Config, "a server has TLS or an acceptor, and not both"));
            }
            let (acceptor, tickets) = tls.build()?;
            return Ok((
                Layers { proxy_protocol, acceptor: Acceptor::Tls(acceptor) },
                Supply { state, tickets, ..Supply::default() },
            ));
        }
        Ok((Layers { proxy_protocol, acceptor: own.unwrap_or(Acceptor::Plain) }, Supply { state, ..Supply::default() }))
    }

    pub(super) fn has_layers(&self) -> bool {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return true;
        }
        self.acceptor.is_some() || self.config.proxy_protocol == ProxyProtocol::Required
    }
}
