//! Certificates and their keys, read from PEM files, and chosen by the name that a client asks for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Why a server cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("the certificate {} cannot be read: {error}", path.display())]
    UnreadableCertificate { path: PathBuf, error: io::Error },
    #[error("{} contains no certificate in PEM form", .0.display())]
    NoCertificate(PathBuf),
    #[error("the certificate {} is not valid PEM: {error}", path.display())]
    BadCertificate { path: PathBuf, error: pem::Error },
    #[error("the private key {} cannot be read: {error}", path.display())]
    UnreadableKey { path: PathBuf, error: io::Error },
    #[error("{} contains no private key in PEM form (an encrypted key is not supported)", .0.display())]
    NoKey(PathBuf),
    #[error("the private key {} is not valid PEM: {error}", path.display())]
    BadKey { path: PathBuf, error: pem::Error },
    #[error("the private key {} does not belong to the certificate {}", key.display(), certificate.display())]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("the certificate {} with the private key {} cannot be used: {error}", certificate.display(), key.display())]
    Unusable { certificate: PathBuf, key: PathBuf, error: rustls::Error },
    #[error("the cryptographic provider cannot be used: {0}")]
    Provider(#[from] rustls::Error),
}

/// Reads a certificate chain and its key, and checks that they belong together.
#[expect(clippy::disallowed_methods, reason = "before the server begins; the generation before waits, with a deadline")]
pub(super) fn load(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, CertificateError> {
    let chain = std::fs::read(certificate)
        .map_err(|error| CertificateError::UnreadableCertificate { path: certificate.to_owned(), error })?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|error| CertificateError::BadCertificate { path: certificate.to_owned(), error })?;
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate(certificate.to_owned()));
    }
    let secret = std::fs::read(key).map_err(|error| CertificateError::UnreadableKey { path: key.to_owned(), error })?;
    let secret = PrivateKeyDer::from_pem_slice(&secret).map_err(|error| match error {
        pem::Error::NoItemsFound => CertificateError::NoKey(key.to_owned()),
        error => CertificateError::BadKey { path: key.to_owned(), error },
    })?;
    // `from_der` compares the two.
    CertifiedKey::from_der(chain, secret, provider).map(Arc::new).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            CertificateError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() }
        }
        error => CertificateError::Unusable { certificate: certificate.to_owned(), key: key.to_owned(), error },
    })
}

/// Chooses the first certificate that is valid for the name that the client asks for, or else the first of all. Passes
/// over a certificate whose key makes no signature that the client understands.
#[derive(Debug)]
pub(super) struct BySni(pub(super) Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let mut usable = self.0.iter().filter(|own| own.key.choose_scheme(hello.signature_schemes()).is_some());
        let first = usable.clone().next();
        let named = name.and_then(|name| usable.find(|own| is_valid_for(own, &name)));
        named.or(first).cloned()
    }
}

fn is_valid_for(own: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = own.end_entity_cert().and_then(ParsedCertificate::try_from);
    parsed.and_then(|parsed| verify_server_name(&parsed, name)).is_ok()
}
