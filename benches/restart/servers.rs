//! The compared servers. Each runs in its own process: this binary, started again with an environment variable set.

use super::process;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// The environment variable that makes this binary a server.
const ROLE: &str = "CUTOVER_BENCH_SERVER";

const WITHIN: Duration = Duration::from_secs(10);

/// The body of each server's responses.
pub(crate) const BODY: &[u8] = b"hello from a small fixed text\n";

/// The kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// hyper's HTTP/1 alone, in a common accept loop.
    Bare,
    /// The same loop with the features that a server on the internet needs: HTTP/2, upgrades, and a timeout for
    /// headers.
    Auto,
    /// `cutover::Server`.
    Cutover,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Bare, Kind::Auto, Kind::Cutover];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Bare => "bare hyper http1",
            Kind::Auto => "hyper-util auto, header timeout",
            Kind::Cutover => "cutover",
        }
    }

    fn role(self) -> &'static str {
        match self {
            Kind::Bare => "bare",
            Kind::Auto => "auto",
            Kind::Cutover => "cutover",
        }
    }

    /// The kind of server that this process must run. `None` if the process is the benchmark itself.
    pub(crate) fn asked_for() -> Option<Kind> {
        let role = std::env::var(ROLE).ok()?;
        Kind::ALL.into_iter().find(|kind| kind.role() == role)
    }
}

/// Prints the address, and serves until the process is killed.
pub(crate) fn run(kind: Kind) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("build the runtime");
    runtime.block_on(async {
        match kind {
            Kind::Bare => {
                let http = Arc::new(hyper::server::conn::http1::Builder::new());
                accept_with(move |stream| {
                    let http = http.clone();
                    async move { http.serve_connection(TokioIo::new(stream), service_fn(answer)).await }
                })
                .await;
            }
            Kind::Auto => {
                let mut http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                http.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
                let http = Arc::new(http);
                accept_with(move |stream| {
                    let http = http.clone();
                    async move { http.serve_connection_with_upgrades(TokioIo::new(stream), service_fn(answer)).await }
                })
                .await;
            }
            Kind::Cutover => {
                let server = cutover::Server::bind("127.0.0.1:0")
                    .without_control()
                    .before_begin(|started| println!("{}", started.addresses[0]));
                server.serve_hyper(service_fn(answer)).await.expect("serve");
            }
        }
    });
}

async fn answer(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(BODY))))
}

async fn accept_with<F>(serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static)
where
    F: Future<Output: Send> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    println!("{}", listener.local_addr().expect("a bound socket has an address"));
    // The loop runs on a worker thread. On the thread of `block_on`, each spawn would have to wake a worker, and the
    // comparison would favour cutover.
    let accepting = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accept");
            stream.set_nodelay(true).expect("TCP_NODELAY");
            tokio::spawn(serve(stream));
        }
    });
    accepting.await.expect("the accept loop does not end");
}

/// A running server, which is killed on drop.
pub(crate) struct Serving {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Serving {
    /// Starts a server, and waits until it listens.
    pub(crate) fn start(kind: Kind) -> Serving {
        let binary = std::env::current_exe().expect("find the benchmark's own binary");
        let mut command = Command::new(binary);
        command.env(ROLE, kind.role()).env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start a server");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("the standard output is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("read the address of a server");
        let address = line.trim().parse().expect("a server prints its address");
        let serving = Serving { kind, address, child };
        serving.wait_listening();
        serving
    }

    /// Waits until the server listens. The hook `before_begin`, which prints the address, runs before listen(2).
    fn wait_listening(&self) {
        let deadline = Instant::now() + WITHIN;
        while let Err(error) = TcpStream::connect(self.address) {
            assert!(Instant::now() < deadline, "{} does not listen: {error}", self.kind.name());
            std::thread::yield_now();
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn cpu_time(&self) -> Duration {
        process::cpu_time(self.pid())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
