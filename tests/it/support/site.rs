//! An example that speaks TLS if it is given a certificate.

use std::net::SocketAddr;

use tempfile::TempDir;

use super::example;
use super::process::Instance;
use super::tls::{Identity, NAME};

/// A running example, plain or with TLS.
pub struct Site {
    pub server: Instance,
    pub address: SocketAddr,
    pub tls: Option<Identity>,
    _folder: TempDir,
}

impl Site {
    /// Starts an example whose last two arguments are the files of its certificate and its key, if there are any.
    #[track_caller]
    pub fn start(name: &str, args: &[&str], with_tls: bool) -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        let tls = with_tls.then(|| Identity::make(folder.path(), "app", &[NAME]));
        let paths = tls.iter().flat_map(|tls| [&tls.certificate, &tls.key]);
        let paths = paths.map(|path| path.to_str().expect("text"));
        let (server, address) = example(name, &args.iter().copied().chain(paths).collect::<Vec<_>>());
        Site { server, address, tls, _folder: folder }
    }
}
