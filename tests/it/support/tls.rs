//! TLS for the server and the client, with a certificate that the test makes.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use tokio_rustls::TlsAcceptor;

/// The name in the certificate.
pub const NAME: &str = "app.test";
const CERTIFICATE: &str = "certificate.der";
const KEY: &str = "key.der";

/// Writes a certificate for `app.test` and its key into this folder.
pub fn make(folder: &Path) {
    let signed = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
    fs::write(folder.join(CERTIFICATE), signed.cert.der()).expect("written");
    fs::write(folder.join(KEY), signed.signing_key.serialize_der()).expect("written");
}

/// A certificate and its key, in PEM files.
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
    der: CertificateDer<'static>,
}

impl Identity {
    /// Makes a certificate that is valid for these names, and writes the files `NAME.pem` and `NAME.key`.
    pub fn make(folder: &Path, file: &str, names: &[&str]) -> Identity {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let signed = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let (certificate, key) = (folder.join(format!("{file}.pem")), folder.join(format!("{file}.key")));
        fs::write(&certificate, signed.cert.pem()).expect("written");
        fs::write(&key, signed.signing_key.serialize_pem()).expect("written");
        Identity { certificate, key, der: signed.cert.der().clone() }
    }

    /// The response to one GET of `/`, including its head, for a client that trusts this certificate alone.
    ///
    /// # Errors
    /// If the handshake fails.
    pub fn get(&self, address: SocketAddr) -> io::Result<String> {
        get_with(self.client(&["http/1.1"]), address)
    }

    /// The configuration of a client that trusts this certificate alone, and offers these protocols by ALPN.
    pub fn client(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        trusting(self.der.clone(), protocols)
    }
}

fn certificate(folder: &Path) -> CertificateDer<'static> {
    fs::read(folder.join(CERTIFICATE)).expect("the test has made it").into()
}

/// The TLS acceptor of the server.
pub fn acceptor(folder: &Path) -> TlsAcceptor {
    let key = PrivateKeyDer::Pkcs8(fs::read(folder.join(KEY)).expect("the test has made it").into());
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate(folder)], key);
    TlsAcceptor::from(Arc::new(config.expect("the key is that of the certificate")))
}

/// The configuration of a client that trusts this certificate alone, and offers these protocols by ALPN.
fn trusting(certificate: CertificateDer<'static>, protocols: &[&str]) -> Arc<ClientConfig> {
    let mut known = RootCertStore::empty();
    known.add(certificate).expect("a certificate");
    let mut config = ClientConfig::builder().with_root_certificates(known).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// The configuration of a client that trusts the certificate in this folder.
pub fn client(folder: &Path) -> Arc<ClientConfig> {
    trusting(certificate(folder), &[])
}

/// The response to one GET of `/`, including its head, for a client that trusts the certificate in this folder.
pub fn get(folder: &Path, address: SocketAddr) -> String {
    get_with(client(folder), address).expect("an answer")
}

fn get_with(config: Arc<ClientConfig>, address: SocketAddr) -> io::Result<String> {
    let name = ServerName::try_from(NAME).expect("a name");
    let connection = ClientConnection::new(config, name).expect("a client");
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut stream = StreamOwned::new(connection, socket);
    write!(stream, "GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut some = [0; 4096];
    // The server may close the connection without a close_notify alert. Only the data before it counts.
    while let Ok(count @ 1..) = stream.read(&mut some) {
        answer.extend_from_slice(&some[..count]);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
