//! `cutover serve`: the reference server.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use cutover::{Error, Server};
use hyper::service::service_fn;
use tower_http::services::ServeDir;

use crate::page::Page;

/// Serve a directory, or without one a page that shows who answers.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The directory to serve.
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Listen here; may be given more than once. Port 0: the system chooses, and it is kept through restarts.
    #[arg(long, value_name = "ADDR", value_parser = address, default_value = "127.0.0.1:8080")]
    listen: Vec<Addresses>,
    /// The name of this instance, for `cutover reload --name`. Default: its first address.
    #[arg(long)]
    name: Option<String>,
    /// Offer /metrics on this address too, and not only on the control socket.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    metrics: Option<Addresses>,
    /// Work without a control socket: then only signals reach the server.
    #[arg(long)]
    no_control: bool,
    /// A file that always names the live process.
    #[arg(long, value_name = "PATH")]
    pid_file: Option<PathBuf>,
    /// How long the next generation may take to become ready, before it is killed and this one serves on.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "30s")]
    ready_timeout: Duration,
    /// Ask the next generation before any user gets to it: /PATH, https:/PATH, https://NAME/PATH. 2xx and 3xx pass.
    #[arg(long, value_name = "TARGET")]
    probe: Option<String>,
    /// How long to ask before the probe counts as failed.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "5s")]
    probe_timeout: Duration,
    /// Give the next generation a part of the new connections first, for some time: 5%:30s,50%:30s.
    #[arg(long, value_name = "STEPS", value_delimiter = ',', value_parser = canary_step)]
    canary: Vec<CanaryStep>,
    /// Keep the old process ready to have everything back, so long after all new connections went to the next one.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s")]
    soak: Duration,
    /// How long to wait for handshakes in flight before the listeners are closed. 0s closes at once, and loses them.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "5s")]
    linger: Duration,
    /// How long a kept-alive connection may be idle, after a reload, before the old process closes it.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "10s")]
    idle_grace: Duration,
    /// How long the old process may take to finish its connections, before it closes what is left.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "60s")]
    drain_timeout: Duration,
    /// Listening sockets for each address.
    #[arg(long, value_name = "N", default_value_t = 1)]
    listeners_per_address: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Addresses(pub(crate) Vec<SocketAddr>);

pub(crate) fn address(text: &str) -> Result<Addresses, String> {
    let found: Vec<_> = text.to_socket_addrs().map_err(|error| error.to_string())?.collect();
    if found.is_empty() { Err("it has no IP address".into()) } else { Ok(Addresses(found)) }
}

#[derive(Debug, Clone, Copy)]
struct CanaryStep {
    percent: f64,
    time: Duration,
}

fn canary_step(text: &str) -> Result<CanaryStep, String> {
    let (percent, time) = text.split_once(':').ok_or("a step is a percentage and a time: 5%:30s")?;
    let percent = percent.strip_suffix('%').ok_or_else(|| format!("{percent} is no percentage: write 5%"))?;
    let percent = percent.trim().parse().map_err(|_| format!("{percent} is no number of percent"))?;
    let time = humantime::parse_duration(time).map_err(|error| format!("{time} is no time: {error}"))?;
    Ok(CanaryStep { percent, time })
}

impl Serve {
    pub(crate) fn run(self) -> ExitCode {
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
        // What is left by now was told to go, and has not gone.
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

    fn server(self) -> Server {
        let addresses: Vec<SocketAddr> = self.listen.into_iter().flat_map(|addresses| addresses.0).collect();
        let mut server = Server::bind(&addresses[..])
            .ready_timeout(self.ready_timeout)
            .linger(self.linger)
            .idle_grace(self.idle_grace)
            .drain_timeout(self.drain_timeout)
            .probe_timeout(self.probe_timeout)
            .soak(self.soak)
            .listeners_per_address(self.listeners_per_address);
        if let Some(name) = self.name {
            server = server.name(name);
        }
        for CanaryStep { percent, time } in self.canary {
            server = server.canary_step(percent, time);
        }
        if let Some(target) = self.probe {
            server = server.probe(target);
        }
        if let Some(metrics) = self.metrics {
            server = server.metrics(&metrics.0[..]);
        }
        if self.no_control {
            server = server.without_control();
        }
        if let Some(path) = self.pid_file {
            server = server.pid_file(path);
        }
        server
    }
}

async fn serve_page(server: Server) -> Result<(), Error> {
    let page = Page::new();
    let answering = page.clone();
    server
        .before_begin(move |begin| page.begin(begin))
        .serve_hyper(service_fn(move |request| {
            let answer = answering.answer(&request);
            async move { answer }
        }))
        .await
}
