//! Clients of any protocol, which run on a runtime of their own and count what they see until the test stops them.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The limit of each wait: for what the clients see, and for their end.
const SOON: Duration = Duration::from_secs(60);

/// Where a client counts, and whether the client is to end.
pub struct Counter<T> {
    tally: Arc<watch::Sender<T>>,
    stopped: Arc<AtomicBool>,
}

impl<T> Clone for Counter<T> {
    fn clone(&self) -> Counter<T> {
        Counter { tally: self.tally.clone(), stopped: self.stopped.clone() }
    }
}

impl<T> Counter<T> {
    pub fn count(&self, change: impl FnOnce(&mut T)) {
        self.tally.send_modify(change);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(SeqCst)
    }
}

/// Some clients, and the tally that they share.
pub struct Clients<T> {
    runtime: Runtime,
    seen: watch::Receiver<T>,
    stopped: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl<T: Clone + Debug + Default + Send + Sync> Clients<T> {
    /// Starts the clients that `begin` begins.
    pub fn start(begin: impl FnOnce(&Runtime, &Counter<T>) -> Vec<JoinHandle<()>>) -> Clients<T> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (tally, seen) = watch::channel(T::default());
        let counter = Counter { tally: Arc::new(tally), stopped: Arc::default() };
        let tasks = begin(&runtime, &counter);
        Clients { runtime, seen, stopped: counter.stopped, tasks }
    }

    /// Waits until the clients have seen this, and returns the tally of that moment.
    ///
    /// # Panics
    /// If they do not see it in time.
    #[track_caller]
    pub fn wait(&mut self, what: &str, is_seen: impl FnMut(&T) -> bool) -> T {
        let wait = self.seen.wait_for(is_seen);
        let waited = self.runtime.block_on(async { tokio::time::timeout(SOON, wait).await.map(|seen| seen.is_ok()) });
        assert!(waited == Ok(true), "not {what} within {SOON:?}: {:?}", self.seen.borrow());
        self.seen.borrow().clone()
    }

    /// Ends the clients, and returns what they have seen.
    ///
    /// # Panics
    /// If a client has panicked, or does not end in time.
    #[track_caller]
    pub fn stop(self) -> T {
        self.stopped.store(true, SeqCst);
        let all = async {
            for task in self.tasks {
                task.await.expect("a client does not panic");
            }
        };
        let ended = self.runtime.block_on(async { tokio::time::timeout(SOON, all).await });
        ended.expect("all clients end");
        self.seen.borrow().clone()
    }
}
