//! `cutover serve`: the reference server.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use cutover::{Error, Server, TlsConfig, defaults};
use hyper::service::service_fn;
use tower_http::services::ServeDir;

use crate::exit;
use crate::format::seconds;
use crate::page::Page;
use crate::rollout::{Addresses, Listen, Rollout, listen};

const ADDRESS: &str = "127.0.0.1:8080";

/// Serve a directory, or without DIR a page that shows which process answers.
///
/// On a terminal a reload ends the job of the shell, and Ctrl-C does not reach the next generation: `cutover run --
/// cutover serve` keeps the server in the foreground.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The directory to serve.
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Read options from this TOML file, each by its name here: listen = ["127.0.0.1:8080"]. Each generation reads the file
    /// anew, so that a reload can change options. An option of the command line counts more.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The address to listen on, or a Unix socket: unix:/PATH, or unix:@NAME in the abstract namespace. May be given more
    /// than once. With port 0 the kernel chooses the port, and all generations keep that port.
    #[arg(long, value_name = "ADDR", value_parser = listen, default_value = ADDRESS)]
    listen: Vec<Listen>,
    /// Speak TLS with this certificate chain, a PEM file. May be given more than once, each with its --tls-key: clients
    /// choose by name (SNI). Each generation reads the files anew.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Vec<PathBuf>,
    /// The private key of the certificate, a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Vec<PathBuf>,
    /// Expect a header of the PROXY protocol, version 1 or 2, at the beginning of each connection, as a load balancer sends
    /// it.
    #[arg(long)]
    proxy_protocol: bool,
    #[command(flatten)]
    rollout: Rollout,
    /// How long a kept-alive connection may be idle, or a request stay half sent, after a reload, before the old
    /// process closes the connection.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = seconds(defaults::IDLE_GRACE))]
    idle_grace: Duration,
    /// How long the old process may take to finish its connections, before it closes the connections that are left.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = seconds(defaults::DRAIN_TIMEOUT))]
    drain_timeout: Duration,
    /// Listening sockets for each address.
    #[arg(long, value_name = "N", default_value_t = defaults::LISTENERS_PER_ADDRESS)]
    listeners_per_address: usize,
}

impl Serve {
    pub(crate) fn run(self) -> ExitCode {
        if self.tls_cert.len() != self.tls_key.len() {
            tracing::error!(
                "--tls-cert and --tls-key come in pairs: {} and {}",
                self.tls_cert.len(),
                self.tls_key.len()
            );
            return ExitCode::from(exit::USAGE);
        }
        let directory = self.directory.clone();
        let server = self.server();
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "cannot start the threads of the server");
                return ExitCode::FAILURE;
            }
        };
        let done = runtime.block_on(async {
            match directory {
                Some(directory) => server.serve(ServeDir::new(directory)).await,
                None => serve_page(server).await,
            }
        });
        // The tasks that are left by now were told to end, and have not ended.
        runtime.shutdown_background();
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
                tracing::error!("cannot begin: {error}{cause}");
                ExitCode::FAILURE
            }
        }
    }

    fn tls(&self) -> Option<TlsConfig> {
        let mut pairs = self.tls_cert.iter().zip(&self.tls_key);
        let (certificate, key) = pairs.next()?;
        Some(pairs.fold(TlsConfig::files(certificate, key), |tls, (certificate, key)| tls.and_files(certificate, key)))
    }

    fn server(self) -> Server {
        let tls = self.tls();
        let bound = self.listen.iter().fold(None, |server: Option<Server>, address| {
            Some(match (server, address) {
                (None, Listen::Inet(Addresses(addresses))) => Server::bind(&addresses[..]),
                (None, Listen::Unix(address)) => Server::bind(address),
                (Some(server), Listen::Inet(Addresses(addresses))) => server.and_bind(&addresses[..]),
                (Some(server), Listen::Unix(address)) => server.and_bind(address),
            })
        });
        // clap gives the default, if the user gives no address.
        let mut server = bound.unwrap_or_else(|| Server::bind(ADDRESS));
        if let Some(tls) = tls {
            server = server.tls(tls);
        }
        if self.proxy_protocol {
            server = server.proxy_protocol();
        }
        let server = server
            .idle_grace(self.idle_grace)
            .drain_timeout(self.drain_timeout)
            .listeners_per_address(self.listeners_per_address);
        self.rollout.of_server(server)
    }
}

async fn serve_page(server: Server) -> Result<(), Error> {
    let page = Page::new();
    let answering = page.clone();
    server
        .before_begin(move |started| page.before_begin(started))
        .serve_hyper(service_fn(move |request| {
            let answer = answering.answer(&request);
            async move { answer }
        }))
        .await
}
