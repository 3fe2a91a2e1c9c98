//! Work that may wait for something outside this program: a disk, a folder, the memory of another process, a hook of
//! the application.
//!
//! The work runs on threads that are never joined. A thread of the application's own runtime would not do: dropping a
//! runtime waits for its blocking threads (tokio, `Runtime`, section "Shutdown"), so that one hung disk would keep
//! `main` from returning. docs/outsiders.md lists what runs here, and what happens when the work does not end.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// How long a look at another process, or at a folder, may take before the caller goes on without the result. Such a
/// look takes microseconds, and some milliseconds on a busy machine.
pub(crate) const LOOK_MAX: Duration = Duration::from_secs(2);

/// How long a generation that starts or ends waits for the disks of its files (PID file, control socket). A reload may
/// have to wait for this twice.
pub(crate) const FILES_MAX: Duration = Duration::from_secs(1);

/// How many threads may hang at once; further work waits for one of them.
const THREADS: usize = 256;

/// Why work has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stalled {
    #[error("no answer in {0:?}")]
    Late(Duration),
    #[error("the task panicked")]
    Panicked,
}

/// The threads, and the number of pieces of work that are not done.
struct Threads {
    runtime: Runtime,
    unfinished: watch::Sender<usize>,
}

/// The one set of threads of this process. It is never dropped, so that nothing waits for its threads.
fn threads() -> &'static Threads {
    static POOL: OnceLock<Threads> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.thread_name("cutover-offload").max_blocking_threads(THREADS).build();
        let runtime = runtime.expect("a runtime without drivers needs nothing of the system");
        Threads { runtime, unfinished: watch::Sender::new(0) }
    })
}

/// Counts one piece of work as not done until this value is dropped.
struct Unfinished;

impl Unfinished {
    fn begin() -> Unfinished {
        threads().unfinished.send_modify(|count| *count += 1);
        Unfinished
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        threads().unfinished.send_modify(|count| *count -= 1);
    }
}

/// Begins `work`. May be called outside a tokio runtime.
fn begin<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let unfinished = Unfinished::begin();
    #[expect(clippy::disallowed_methods, reason = "on threads that nobody waits for")]
    threads().runtime.spawn_blocking(move || {
        let _unfinished = unfinished;
        work()
    })
}

/// Begins `work`, whose result is not needed. Does not block, and may be called outside a tokio runtime.
pub(crate) fn detach(work: impl FnOnce() + Send + 'static) {
    drop(begin(work));
}

/// Does `work`, and waits until the work ends, without a limit: for work that ends by itself, and for callers that have
/// a deadline of their own. Dropping the future does not stop the work.
///
/// # Errors
/// [`Stalled::Panicked`].
pub(crate) fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, Stalled>> + Send {
    let task = begin(work);
    async move { task.await.map_err(|_| Stalled::Panicked) }
}

/// Does `work`, and waits for `limit` at most. Work that is late continues, and its result is dropped.
///
/// # Errors
/// [`Stalled::Late`] and [`Stalled::Panicked`].
pub(crate) async fn run_within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stalled> {
    tokio::time::timeout(limit, run(work)).await.unwrap_or(Err(Stalled::Late(limit)))
}

/// Waits until all work that was begun is done, for `limit` at most. For the end of the process, which ends the threads
/// too.
pub(crate) async fn finished(limit: Duration) {
    let mut unfinished = threads().unfinished.subscribe();
    // Work that hangs is left behind.
    let _ = tokio::time::timeout(limit, unfinished.wait_for(|count| *count == 0)).await;
}

/// Limits how many pieces of one kind of repeated work run at once, so that a hung disk does not cost one more thread
/// for each attempt. Clones share the limit.
#[derive(Debug, Clone)]
pub(crate) struct Lane(Arc<Semaphore>);

impl Lane {
    /// A lane in which at most `count` pieces of work run at once.
    pub(crate) fn new(count: usize) -> Lane {
        Lane(Arc::new(Semaphore::new(count)))
    }

    /// As [`run`], once earlier work has ended. Dropping the future before that drops the work.
    ///
    /// # Errors
    /// [`Stalled::Panicked`].
    pub(crate) fn run<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> impl Future<Output = Result<T, Stalled>> + Send + use<T, F> {
        let lane = self.0.clone();
        async move {
            // The semaphore is never closed, so this error does not happen.
            let place = lane.acquire_owned().await.map_err(|_| Stalled::Panicked)?;
            let result = run(move || {
                let _place = place;
                work()
            });
            result.await
        }
    }

    /// As [`run_within`]; `limit` includes the wait until earlier work has ended.
    ///
    /// # Errors
    /// The errors of [`run_within`].
    pub(crate) async fn run_within<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stalled> {
        tokio::time::timeout(limit, self.run(work)).await.unwrap_or(Err(Stalled::Late(limit)))
    }

    /// Begins `work` if there is room for it, and drops it otherwise: earlier work of the same kind has not ended.
    pub(crate) fn try_detach(&self, work: impl FnOnce() + Send + 'static) {
        if let Ok(place) = self.0.clone().try_acquire_owned() {
            detach(move || {
                let _place = place;
                work();
            });
        }
    }
}

/// The lane for the work of a rollout that may wait for a disk or for the application: its preflight, and its exec.
/// Later rollouts should not wait for one such wait of an earlier rollout that was given up.
pub(crate) fn attempts() -> Lane {
    Lane::new(4)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn work_that_hangs_is_left_behind_and_its_lane_is_taken_until_it_ends() {
        let lane = Lane::new(1);
        let (go, wait) = mpsc::channel::<()>();
        let hangs = move || {
            let _ = wait.recv();
        };
        assert_eq!(lane.run_within(SOON, hangs).await, Err(Stalled::Late(SOON)));
        assert_eq!(lane.run_within(SOON, || 1).await, Err(Stalled::Late(SOON)));
        drop(go);
        assert_eq!(lane.run_within(LATE, || 1).await, Ok(1));
    }

    #[tokio::test]
    async fn work_that_panics_is_told_and_frees_its_lane() {
        let lane = Lane::new(1);
        assert_eq!(lane.run_within(LATE, || panic!("on purpose")).await, Err::<(), _>(Stalled::Panicked));
        assert_eq!(lane.run_within(LATE, || 1).await, Ok(1));
    }

    /// Dropping a runtime of the application does not wait for work that hangs on these threads.
    #[test]
    fn a_runtime_is_dropped_while_work_hangs() {
        let (_go, wait) = mpsc::channel::<()>();
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        let late = runtime.block_on(run_within(SOON, move || wait.recv()));
        assert_eq!(late.map(drop), Err(Stalled::Late(SOON)));
        drop(runtime);
    }
}
