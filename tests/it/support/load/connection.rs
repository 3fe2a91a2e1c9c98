//! The connection of a client: plain TCP, or TLS.

use super::client::{Fault, Kind, fault};
use super::{Plan, Transport};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The name that clients of TLS ask for.
pub const NAME: &str = "app.test";

pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub type Connection = Box<dyn Io>;

/// Connects, with the handshake of the transport. Returns the local port too.
pub async fn connect(plan: &Plan, target: SocketAddr) -> Result<(Connection, u16), Fault> {
    let stream = TcpStream::connect(target).await.map_err(|e| fault("connect", &e))?;
    let port = stream.local_addr().map_err(|e| fault("getsockname", &e))?.port();
    stream.set_nodelay(true).map_err(|e| fault("TCP_NODELAY", &e))?;
    match &plan.transport {
        Transport::Tcp => Ok((Box::new(stream), port)),
        Transport::Tls(config) => {
            let name = ServerName::try_from(NAME).expect("a name");
            let stream = TlsConnector::from(config.clone()).connect(name, stream).await;
            let stream = stream.map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => Fault::Server(Kind::EofBefore, format!("handshake: {e}")),
                _ => fault("handshake", &e),
            })?;
            Ok((Box::new(stream), port))
        }
    }
}
