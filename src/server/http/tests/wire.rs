//! What HTTP is spoken over in a test.

use std::sync::LazyLock;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::server::tls::TlsConfig;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Plain,
    Tls,
}

static TLS: LazyLock<(TlsAcceptor, TlsConnector)> = LazyLock::new(|| {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (signed.cert.der().clone(), signed.signing_key.serialize_der().try_into().expect("a key"));
    let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.clone()], key);
    let (acceptor, _) = TlsConfig::from(server.expect("a pair")).build().expect("right");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    (acceptor, TlsConnector::from(Arc::new(client)))
});

impl Wire {
    pub(super) fn layers(self) -> Layers {
        match self {
            Plain => Layers::NONE,
            Tls => Layers { acceptor: Acceptor::Tls(TLS.0.clone()), ..Layers::NONE },
        }
    }

    /// The client's end of a connection.
    pub(super) async fn begin(self, stream: TcpStream) -> Box<dyn Io> {
        match self {
            Plain => Box::new(stream),
            Tls => Box::new(begin_tls(stream).await),
        }
    }
}

pub(super) async fn begin_tls(stream: TcpStream) -> TlsStream<TcpStream> {
    let name = ServerName::try_from("localhost").expect("a name");
    TLS.1.connect(name, stream).await.expect("a handshake")
}
