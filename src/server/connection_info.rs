//! What the application can learn about a connection before its first request.

use std::net::SocketAddr;

use super::drain::Drain;
use crate::runtime::stream::Shared;

/// Facts about one connection: the argument of a make service, see
/// [`Server::serve_make_service`](crate::Server::serve_make_service).
///
/// With the feature `axum`, handlers get the facts by `axum::extract::ConnectInfo<ConnectionInfo>`, or the address alone
/// by `ConnectInfo<SocketAddr>`.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    drain: Drain,
    #[cfg(feature = "tls")]
    tls: Option<TlsInfo>,
}

impl ConnectionInfo {
    pub(super) fn of(shared: &Shared) -> ConnectionInfo {
        ConnectionInfo {
            peer: shared.peer_addr(),
            local: shared.local_addr().ok(),
            drain: Drain::new(shared.guard.connections().watch()),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// The client's address, or the address that a load balancer has named by the PROXY protocol; `None` on a Unix
    /// socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The address that the client connected to; `None` on a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Tells when the generation that serves the connection drains.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// The result of the TLS handshake; `None` without [`Server::tls`](crate::Server::tls).
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref()
    }

    #[cfg(feature = "tls")]
    pub(super) fn with_tls(mut self, session: &rustls::ServerConnection) -> ConnectionInfo {
        self.tls = Some(TlsInfo {
            server_name: session.server_name().map(str::to_owned),
            alpn_protocol: session.alpn_protocol().map(<[u8]>::to_vec),
            client_certificates: session.peer_certificates().map(<[_]>::to_vec).unwrap_or_default(),
            is_resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        });
        self
    }
}

/// The result of a TLS handshake.
#[cfg(feature = "tls")]
#[derive(Debug, Clone)]
pub struct TlsInfo {
    server_name: Option<String>,
    alpn_protocol: Option<Vec<u8>>,
    client_certificates: Vec<rustls::pki_types::CertificateDer<'static>>,
    is_resumed: bool,
}

#[cfg(feature = "tls")]
impl TlsInfo {
    /// The name that the client asked for (SNI).
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The protocol that was negotiated by ALPN: `h2`, `http/1.1`, or one of your own configuration.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.alpn_protocol.as_deref()
    }

    /// The certificate chain of the client, its own certificate first; empty unless your own `rustls::ServerConfig` asks
    /// clients for a certificate.
    pub fn client_certificates(&self) -> &[rustls::pki_types::CertificateDer<'static>] {
        &self.client_certificates
    }

    /// Whether the client has resumed an earlier session by a ticket.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }
}

#[cfg(feature = "axum")]
mod axum {
    use std::net::{Ipv4Addr, SocketAddr};

    use axum::extract::connect_info::Connected;

    use super::ConnectionInfo;

    impl Connected<ConnectionInfo> for ConnectionInfo {
        fn connect_info(info: ConnectionInfo) -> ConnectionInfo {
            info
        }
    }

    /// The client's address; 0.0.0.0:0 on a Unix socket.
    impl Connected<ConnectionInfo> for SocketAddr {
        fn connect_info(info: ConnectionInfo) -> SocketAddr {
            info.peer_addr().unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into())
        }
    }
}
