//! The connection of a client: plain TCP, or TLS.

use super::client::{Fault, Kind, fault};
use super::{Plan, Transport};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream as StdUnixStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// The name that clients of TLS ask for.
pub const NAME: &str = "app.test";

pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub type Connection = Box<dyn Io>;

/// Connects, with the handshake of the transport. Returns the local port too.
pub async fn connect(plan: &Plan, target: SocketAddr) -> Result<(Connection, u16), Fault> {
    if let Transport::Unix(address) = &plan.transport {
        return Ok((Box::new(connect_unix(address).await?), 0));
    }
    let stream = TcpStream::connect(target).await.map_err(|e| fault("connect", &e))?;
    let port = stream.local_addr().map_err(|e| fault("getsockname", &e))?.port();
    stream.set_nodelay(true).map_err(|e| fault("TCP_NODELAY", &e))?;
    match &plan.transport {
        Transport::Tcp | Transport::Unix(_) => Ok((Box::new(stream), port)),
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

/// Connects on a thread that may block: a client that does not block gets `EAGAIN` from a full accept queue, where another
/// one waits (connect(2)).
async fn connect_unix(address: &UnixAddress) -> Result<UnixStream, Fault> {
    let address = address.clone();
    let connected = tokio::task::spawn_blocking(move || StdUnixStream::connect_addr(&address)).await;
    let stream = connected.expect("no panic").map_err(|e| fault("connect", &e))?;
    stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream)).map_err(|e| fault("register", &e))
}
