//! The load client: sends requests as fast as it can, and counts every kind of failure.
//!
//! The client is naive on purpose. It never retries, and it reads a connection only while a request is in flight, so a
//! connection that the server has closed in between fails the next request. After a failure the client opens a new
//! connection.

#![allow(dead_code, reason = "each binary that includes this file uses a part of it")]
#![allow(unreachable_pub, reason = "`pub` says here what the including binary may use")]

mod answer;
mod client;
mod connection;
mod http2;
mod report;

pub use report::{Failures, Report};

use client::Client;
use hdrhistogram::Histogram;
use report::list;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::net::SocketAddr as UnixAddress;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The number of failures that the report describes in full.
const EXAMPLES: usize = 20;
/// The number of requests in one write of [`Mode::Pipelined`].
const PIPELINED: u64 = 4;
/// The number of concurrent requests of a client in [`Mode::Http2`].
const STREAMS: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A new connection for each request, which has `Connection: close`.
    Close,
    /// Consecutive requests on one connection. A new connection follows only after the server has announced
    /// `Connection: close`.
    KeepAlive,
    /// As [`Mode::KeepAlive`], with HTTP/1.0 and `Connection: Keep-Alive`. The client reuses the connection only if the
    /// response has `keep-alive` as well.
    KeepAlive10,
    /// As [`Mode::KeepAlive`], with [`PIPELINED`] requests in one write, followed by their responses. A
    /// `Connection: close` before the last response loses the remaining requests.
    Pipelined,
    /// HTTP/2, with [`STREAMS`] requests at a time on one connection. A new connection follows when the server has
    /// announced the end of the connection by GOAWAY.
    Http2,
}

/// What the requests are sent over.
#[derive(Clone)]
pub enum Transport {
    Tcp,
    /// TLS over TCP. Sessions are resumed if this configuration allows it.
    Tls(Arc<rustls::ClientConfig>),
    /// A Unix socket: the targets are not used.
    Unix(UnixAddress),
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "Tcp",
            Transport::Tls(_) => "Tls",
            Transport::Unix(_) => "Unix",
        })
    }
}

#[derive(Clone, Debug)]
pub enum Answer {
    /// Status 200, and a body with `pid N` and `generation N`, which are both recorded.
    CutoverPage,
    /// Status 200, and a body with `pid N`, which is recorded as the generation too.
    Pid,
    /// Status 200, and exactly this body.
    Exact(Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct Plan {
    /// The addresses of the servers. The clients are assigned to the addresses round robin.
    pub targets: Vec<SocketAddr>,
    pub clients: usize,
    pub mode: Mode,
    /// Default: TCP.
    pub transport: Transport,
    /// The path of each request. Default: `/`.
    pub path: String,
    /// The pause between two requests of a client. Default: none.
    pub pause: Duration,
    /// The time limit for the connect, and again for the request. Default: 10 s.
    pub timeout: Duration,
    pub answer: Answer,
    /// The number of threads, each with its own runtime. Default: 1.
    pub threads: usize,
}

impl Plan {
    pub fn new(targets: impl Into<Vec<SocketAddr>>, clients: usize, mode: Mode) -> Plan {
        Plan {
            targets: targets.into(),
            clients,
            mode,
            transport: Transport::Tcp,
            path: "/".into(),
            pause: Duration::ZERO,
            timeout: Duration::from_secs(10),
            answer: Answer::CutoverPage,
            threads: 1,
        }
    }

    pub fn start(self) -> Load {
        assert!(!self.targets.is_empty(), "a load needs a target");
        let plan = Arc::new(self);
        let shared = Arc::new(Shared::new());
        let (stop, stopped) = watch::channel(());
        let threads = (0..plan.threads.max(1))
            .map(|thread| {
                let clients: Vec<Client> = (thread..plan.clients)
                    .step_by(plan.threads.max(1))
                    .map(|number| Client::new(number, &plan, &shared, &stopped))
                    .collect();
                std::thread::Builder::new()
                    .name(format!("load-{thread}"))
                    .spawn(move || run_clients(clients))
                    .expect("spawn a thread of the load client")
            })
            .collect();
        Load { shared, stop, threads }
    }
}

fn run_clients(clients: Vec<Client>) -> Tally {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("build the runtime of the load client");
    runtime.block_on(async {
        let tasks: Vec<_> = clients.into_iter().map(|c| tokio::spawn(c.run())).collect();
        let mut tally = Tally::new();
        for task in tasks {
            tally.add(&task.await.expect("a client of the load does not panic"));
        }
        tally
    })
}

/// A running load. A load that is dropped without `stop` ends soon after.
pub struct Load {
    shared: Arc<Shared>,
    stop: watch::Sender<()>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// The number of requests answered correctly so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(SeqCst)
    }

    /// The generations that have answered so far.
    pub fn generations(&self) -> BTreeSet<u64> {
        self.shared.seen().generations.clone()
    }

    pub fn failed_so_far(&self) -> u64 {
        self.shared.seen().failures.total()
    }

    /// # Panics
    /// If `more` further answers do not arrive in time.
    #[track_caller]
    pub fn wait_answered(&self, more: u64, within: Duration) {
        let wanted = self.answered() + more;
        self.wait(&format!("{more} more answers"), within, |_| {
            // `wanted` is set before `answered` is read. A client increments `answered` before it reads `wanted`, so
            // one side sees the other's change.
            self.shared.wanted.fetch_min(wanted, SeqCst);
            self.answered() >= wanted
        });
    }

    /// # Panics
    /// If `more` further requests do not fail in time.
    #[track_caller]
    pub fn wait_failed(&self, more: u64, within: Duration) {
        let wanted = self.failed_so_far() + more;
        self.wait(&format!("{more} more failures"), within, |seen| seen.failures.total() >= wanted);
    }

    /// Waits until a client has received an answer from this generation.
    ///
    /// # Panics
    /// If no client receives one in time.
    #[track_caller]
    pub fn wait_generation(&self, generation: u64, within: Duration) {
        let what = format!("an answer of generation {generation}");
        self.wait(&what, within, |seen| seen.generations.contains(&generation));
    }

    #[track_caller]
    fn wait(&self, what: &str, within: Duration, done: impl Fn(&Seen) -> bool) {
        let deadline = Instant::now() + within;
        let mut seen = self.shared.seen();
        loop {
            if let Some(text) = &seen.broken {
                panic!("the load client itself failed: {text}");
            }
            if done(&seen) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                panic!(
                    "the load did not see {what} within {within:?}: {} answered, {} failed, generations {:?}{}",
                    self.answered(),
                    seen.failures.total(),
                    seen.generations,
                    list(&seen.examples),
                );
            }
            let waited = self.shared.changed.wait_timeout(seen, left);
            seen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends the load. Each client first finishes its current request.
    ///
    /// # Panics
    /// If the load client itself failed (no free port, no free descriptor): the counts then say nothing about the
    /// server.
    pub fn stop(self) -> Report {
        drop(self.stop);
        let mut tally = Tally::new();
        for thread in self.threads {
            match thread.join() {
                Ok(of_thread) => tally.add(&of_thread),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        let seen = std::mem::take(&mut *self.shared.seen());
        if let Some(text) = seen.broken {
            panic!("the load client itself failed: {text}");
        }
        Report {
            answered: self.shared.answered.load(SeqCst),
            failures: seen.failures,
            lost_reused: seen.lost_reused,
            generations: seen.generations,
            pids: seen.pids,
            answered_by: tally.answered_by,
            last_lost: seen.last_lost,
            latency: tally.latency,
            connections: tally.connections,
            examples: seen.examples,
        }
    }
}

/// Counts that each client keeps by itself, so that the clients do not contend for one lock.
struct Tally {
    latency: Histogram<u64>,
    connections: u64,
    answered_by: BTreeMap<u64, u64>,
}

impl Tally {
    fn new() -> Tally {
        Tally {
            latency: Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds of the histogram are in order"),
            connections: 0,
            answered_by: BTreeMap::new(),
        }
    }

    fn add(&mut self, other: &Tally) {
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
        self.connections += other.connections;
        for (generation, answered) in &other.answered_by {
            *self.answered_by.entry(*generation).or_default() += answered;
        }
    }
}

/// The state that the clients and the test share.
struct Shared {
    begun: Instant,
    answered: AtomicU64,
    /// The value of `answered` at which a client wakes the test. Below this value, no client takes the lock.
    wanted: AtomicU64,
    seen: Mutex<Seen>,
    changed: Condvar,
}

/// The part of the state that changes rarely.
#[derive(Default)]
struct Seen {
    generations: BTreeSet<u64>,
    pids: BTreeSet<u32>,
    failures: Failures,
    last_lost: Option<Instant>,
    lost_reused: u64,
    examples: Vec<String>,
    /// The reason if the load client itself failed. The counts are then meaningless.
    broken: Option<String>,
}

impl Shared {
    fn new() -> Shared {
        Shared {
            begun: Instant::now(),
            answered: AtomicU64::new(0),
            wanted: AtomicU64::new(u64::MAX),
            seen: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_answer(&self) {
        let answered = self.answered.fetch_add(1, SeqCst) + 1;
        if answered >= self.wanted.load(SeqCst) {
            let _seen = self.seen();
            // A thread that waits for more answers sets `wanted` again.
            self.wanted.store(u64::MAX, SeqCst);
            self.changed.notify_all();
        }
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen());
        self.changed.notify_all();
    }
}
