//! The load client: sends requests as fast as it can and counts every way in which one can fail.
//!
//! It is naive on purpose: it never retries, and it looks at a connection only while a request is on its way, so
//! a connection that the server closed in between costs the next request. After a failure it opens a new one.
//! It and its folder `load/` need nothing else of the tests, because a benchmark includes it too, through `#[path]`.

#![allow(dead_code, reason = "each binary that includes this file uses a part of it")]
#![allow(unreachable_pub, reason = "`pub` says here what the including binary may use")]

// Named, so that the place is the same when a benchmark includes this file by its path.
#[path = "load/answer.rs"]
mod answer;
#[path = "load/client.rs"]
mod client;

use client::{Client, Kind};
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// So many failures are told in full.
const EXAMPLES: usize = 20;
/// So many requests are in one write of [`Mode::Pipelined`].
const PIPELINED: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A new connection for each request, which says `Connection: close`.
    Close,
    /// Request after request on one connection, and a new one only after the server announced `Connection: close`.
    KeepAlive,
    /// As [`Mode::KeepAlive`], by HTTP/1.0 and its `Connection: Keep-Alive`: the connection takes another request only if
    /// the answer says `keep-alive` as well.
    KeepAlive10,
    /// As [`Mode::KeepAlive`], with [`PIPELINED`] requests in one write, and then their answers. A `Connection: close`
    /// before the last answer loses the requests behind it.
    Pipelined,
}

#[derive(Clone, Debug)]
pub enum Answer {
    /// 200, and the body contains `pid N` and `generation N`; both are recorded.
    CutoverPage,
    /// 200, and the body contains `pid N`, which is recorded as the generation too.
    Pid,
    /// 200, and just this body.
    Exact(Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct Plan {
    /// The clients are spread over them round robin.
    pub targets: Vec<SocketAddr>,
    pub clients: usize,
    pub mode: Mode,
    /// Default `/`.
    pub path: String,
    /// Between two requests of a client; default none.
    pub pause: Duration,
    /// For connecting, and once more for the request; default 10 s.
    pub timeout: Duration,
    pub answer: Answer,
    /// Each has its own runtime; default 1.
    pub threads: usize,
}

impl Plan {
    pub fn new(targets: impl Into<Vec<SocketAddr>>, clients: usize, mode: Mode) -> Plan {
        Plan {
            targets: targets.into(),
            clients,
            mode,
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

/// A running load. Dropped without `stop`, it ends by itself soon after.
pub struct Load {
    shared: Arc<Shared>,
    stop: watch::Sender<()>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Requests answered rightly so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(SeqCst)
    }

    /// Those that have answered so far.
    pub fn generations(&self) -> BTreeSet<u64> {
        self.shared.seen().generations.clone()
    }

    pub fn failed_so_far(&self) -> u64 {
        self.shared.seen().failures.total()
    }

    /// # Panics
    /// If not that many more answers arrive in time.
    #[track_caller]
    pub fn wait_answered(&self, more: u64, within: Duration) {
        let wanted = self.answered() + more;
        self.wait(&format!("{more} more answers"), within, |_| {
            // Armed before the look: a client counts first and reads `wanted` afterwards, so one of the two sees the other.
            self.shared.wanted.fetch_min(wanted, SeqCst);
            self.answered() >= wanted
        });
    }

    /// # Panics
    /// If not that many more requests fail in time.
    #[track_caller]
    pub fn wait_failed(&self, more: u64, within: Duration) {
        let wanted = self.failed_so_far() + more;
        self.wait(&format!("{more} more failures"), within, |seen| seen.failures.total() >= wanted);
    }

    /// Waits until some client has seen an answer of this generation.
    ///
    /// # Panics
    /// If none has in time.
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

    /// Lets each client finish the request that it is in.
    ///
    /// # Panics
    /// If the client's own side failed (no free port, no free descriptor): then the counts say nothing about the server.
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

#[derive(Debug)]
pub struct Report {
    pub answered: u64,
    pub failures: Failures,
    pub generations: BTreeSet<u64>,
    pub pids: BTreeSet<u32>,
    /// How many requests each generation answered.
    pub answered_by: BTreeMap<u64, u64>,
    /// When the youngest connection that failed was begun.
    pub last_lost: Option<Instant>,
    /// Failures of requests on a connection that had been used before: whose server closes it meanwhile may cause them.
    pub lost_reused: u64,
    /// Microseconds from the request (with its connect, if it made one) to the whole answer; answered requests only.
    pub latency: Histogram<u64>,
    pub connections: u64,
    /// The first 20 failures.
    pub examples: Vec<String>,
}

impl Report {
    /// # Panics
    /// Unless something was answered and nothing failed.
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        assert!(self.failures.total() == 0 && self.answered > 0, "{self}");
    }

    /// # Panics
    /// If a connection failed that was begun after this moment.
    #[track_caller]
    pub fn assert_nothing_lost_after(&self, moment: Instant) {
        if let Some(after) = self.last_lost.and_then(|lost| lost.checked_duration_since(moment)) {
            panic!("a connection failed that was begun {after:?} after the moment: {self}");
        }
        assert!(self.answered > 0, "{self}");
    }

    /// # Panics
    /// Unless something was answered, and nothing failed but what a server causes that closes kept connections.
    #[track_caller]
    pub fn assert_nothing_lost_but_on_reused(&self) {
        assert!(self.failures.total() == self.lost_reused && self.answered > 0, "{self}");
    }

    /// The part of the answers that came from this generation, in percent.
    pub fn percent_of(&self, generation: u64) -> f64 {
        let count = |n: u64| f64::from(u32::try_from(n).expect("no load makes so many requests"));
        100.0 * self.answered_by.get(&generation).map_or(0.0, |n| count(*n)) / count(self.answered.max(1))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests answered on {} connections by generations {:?} (pids {:?}), {} failed ({} on a used connection): {:?}; \
             latency in µs: median {}, 99 % {}, most {}, {} above a second{}",
            self.answered,
            self.connections,
            self.generations,
            self.pids,
            self.failures.total(),
            self.lost_reused,
            self.failures,
            self.latency.value_at_quantile(0.5),
            self.latency.value_at_quantile(0.99),
            self.latency.max(),
            self.latency.count_between(1_000_000, self.latency.high()),
            list(&self.examples),
        )
    }
}

fn list(examples: &[String]) -> String {
    let lines = examples.iter().map(|example| format!("\n  {example}"));
    lines.collect()
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    pub refused: u64,
    /// ECONNRESET or EPIPE, at any point.
    pub reset: u64,
    /// End of file before the first byte of an answer.
    pub eof_before: u64,
    pub eof_within: u64,
    pub timeout: u64,
    /// A whole answer, but not the right one; or something that is no HTTP.
    pub wrong: u64,
    pub other: u64,
}

impl Failures {
    pub fn total(&self) -> u64 {
        let Failures { refused, reset, eof_before, eof_within, timeout, wrong, other } = self;
        refused + reset + eof_before + eof_within + timeout + wrong + other
    }

    fn count(&mut self, kind: Kind) {
        let of_kind = match kind {
            Kind::Refused => &mut self.refused,
            Kind::Reset => &mut self.reset,
            Kind::EofBefore => &mut self.eof_before,
            Kind::EofWithin => &mut self.eof_within,
            Kind::Timeout => &mut self.timeout,
            Kind::Wrong => &mut self.wrong,
            Kind::Other => &mut self.other,
        };
        *of_kind += 1;
    }
}

/// What a client adds up by itself, so that the clients do not fight for one lock.
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

/// What the clients and the test share.
struct Shared {
    begun: Instant,
    answered: AtomicU64,
    /// The client that makes `answered` reach this wakes the test; no other pays for a lock.
    wanted: AtomicU64,
    seen: Mutex<Seen>,
    changed: Condvar,
}

/// What changes rarely.
#[derive(Default)]
struct Seen {
    generations: BTreeSet<u64>,
    pids: BTreeSet<u32>,
    failures: Failures,
    last_lost: Option<Instant>,
    lost_reused: u64,
    examples: Vec<String>,
    /// The client's own side failed, so the counts mean nothing.
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
            // Whoever still waits for more arms it again.
            self.wanted.store(u64::MAX, SeqCst);
            self.changed.notify_all();
        }
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen());
        self.changed.notify_all();
    }
}
