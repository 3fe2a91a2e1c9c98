//! TLS for a server of HTTP: what the user configures, and the `rustls` configuration that is made of it at the start.

mod certificates;
pub(super) mod records;
pub(super) mod tickets;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::certificates::{BySni, CertificateError};
use self::records::RecordStream;
use self::tickets::Tickets;
use super::connection_info::ConnectionInfo;
use super::transport::Transport;
use crate::error::{Error, ErrorKind};

/// The protocols that are negotiated by ALPN, in the order of preference (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How a server speaks TLS: see [`Server::tls`](crate::Server::tls).
///
/// Each generation reads the files anew at its start, so a reload is also the way to a renewed certificate. A file that
/// cannot be read, or a key that does not belong to its certificate, is an error of the start: a next generation with
/// such a file is rolled back, and the previous generation serves on.
///
/// ```no_run
/// # async fn example() -> Result<(), cutover::Error> {
/// let tls = cutover::TlsConfig::files("/etc/ssl/example.org.pem", "/etc/ssl/example.org.key")
///     .and_files("/etc/ssl/example.net.pem", "/etc/ssl/example.net.key");
/// cutover::Server::bind("[::]:443").tls(tls).serve(axum::Router::new()).await
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TlsConfig {
    source: Source,
    shares_tickets: bool,
}

#[derive(Debug, Clone)]
enum Source {
    /// Pairs of a certificate file and a key file, at least one.
    Files(Vec<(PathBuf, PathBuf)>),
    Rustls(Arc<ServerConfig>),
}

impl TlsConfig {
    /// A certificate chain and its private key, each in a PEM file: the server's own certificate first, then the
    /// certificates of the authorities, if any. An encrypted key is not supported.
    ///
    /// TLS 1.2 and 1.3; clients are not asked for a certificate. For anything else make a [`rustls::ServerConfig`].
    pub fn files(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> TlsConfig {
        TlsConfig { source: Source::Files(vec![(certificate.into(), key.into())]), shares_tickets: true }
    }

    /// Adds another certificate chain and its key. A client gets the first certificate that is valid for the name that
    /// the client asks for (SNI, RFC 6066), or the first of all certificates if none is. Has no effect on a
    /// `rustls::ServerConfig`, which chooses certificates itself.
    pub fn and_files(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> TlsConfig {
        if let Source::Files(files) = &mut self.source {
            files.push((certificate.into(), key.into()));
        }
        self
    }

    /// Resumes the sessions of your own `rustls::ServerConfig` across reloads: the server makes the tickets, and each
    /// generation has the same keys. Files are served so without this call.
    ///
    /// Not for a configuration that asks clients for a certificate: rustls does not ask again in a session that is
    /// resumed, so that a client would get past a check that a reload has added or changed.
    pub fn share_tickets(mut self) -> TlsConfig {
        self.shares_tickets = true;
        self
    }

    /// What a server makes of this configuration at its start, and the keys of its tickets, if generations share them.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`] names the file, and what is wrong with the file. Blocks for the time of reading the files.
    pub(super) fn build(&self) -> Result<(TlsAcceptor, Option<Arc<Tickets>>), Error> {
        let mut config = match &self.source {
            Source::Rustls(config) => ServerConfig::clone(config),
            Source::Files(files) => from_files(files).map_err(|error| Error::new(ErrorKind::Tls, error.to_string()))?,
        };
        if config.alpn_protocols.is_empty() {
            config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        }
        let tickets = self.shares_tickets.then(|| Arc::new(Tickets::default()));
        if let Some(tickets) = &tickets {
            config.ticketer = tickets.clone();
        }
        Ok((TlsAcceptor::from(Arc::new(config)), tickets))
    }
}

/// Your own configuration. If the configuration names no ALPN protocols, h2 and http/1.1 are offered. Sessions are resumed
/// as the configuration says: across reloads with [`share_tickets`](TlsConfig::share_tickets) only.
impl From<Arc<ServerConfig>> for TlsConfig {
    fn from(config: Arc<ServerConfig>) -> TlsConfig {
        TlsConfig { source: Source::Rustls(config), shares_tickets: false }
    }
}

/// As `From<Arc<ServerConfig>>`.
impl From<ServerConfig> for TlsConfig {
    fn from(config: ServerConfig) -> TlsConfig {
        Arc::new(config).into()
    }
}

fn from_files(files: &[(PathBuf, PathBuf)]) -> Result<ServerConfig, CertificateError> {
    // The application may have installed another provider for the whole process.
    let provider =
        CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()));
    let certificates = files
        .iter()
        .map(|(certificate, key)| certificates::load(certificate, key, &provider))
        .collect::<Result<Vec<_>, _>>()?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_no_client_auth().with_cert_resolver(Arc::new(BySni(certificates))))
}

impl Transport for TlsStream<RecordStream> {
    fn read_ahead(&mut self, _: bool) -> usize {
        let (stream, session) = self.get_mut();
        // An error ends the connection with the next read.
        let decrypted = session.process_new_packets().map_or(0, |state| state.plaintext_bytes_to_read());
        decrypted + usize::from(stream.is_within_record())
    }

    fn describe(&self, info: ConnectionInfo) -> ConnectionInfo {
        info.with_tls(self.get_ref().1)
    }

    /// By a close_notify alert (RFC 8446, 6.1). If the kernel has no room for the alert, the peer sees a connection that was
    /// cut, which is true: what the application has sent before waits for room as well.
    fn say_end(&mut self) {
        let (stream, session) = self.get_mut();
        session.send_close_notify();
        // An error means that the peer has ended the connection, or that there is no room.
        let _ = session.write_tls(&mut WithoutWaiting(stream));
    }

    async fn readable(&mut self) -> std::io::Result<()> {
        let (stream, session) = self.get_ref();
        // What has come with the end of the handshake has been read from the socket already.
        if session.wants_read() { stream.stream().readable().await } else { Ok(()) }
    }
}

/// Writes what the kernel has room for.
struct WithoutWaiting<'a>(&'a RecordStream);

impl std::io::Write for WithoutWaiting<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.stream().try_write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
