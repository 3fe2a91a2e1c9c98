//! The groups of this generation: its listeners, the slot table of each group, and what each group is steered to.

mod error;
mod group;
mod listener;
mod placeholder;
mod slot_discovery;
mod steering_setting;
mod supervised;
mod table;
#[cfg(test)]
mod tests;
mod view;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::offload::{self, Lane, Stalled};
use crate::model::steering::SteeringMode;

pub(crate) use self::error::SteeringError;
pub(crate) use self::listener::GroupListener;
pub(crate) use self::steering_setting::Steering;
pub(crate) use self::supervised::KeptListener;
pub(crate) use self::table::Table;
pub(crate) use self::view::{Holders, Shown};

/// How many looks are made at the most while listeners keep joining.
const LOOKS: usize = 10;

/// A handle of the groups of all addresses. Clones are handles of the same groups.
///
/// The operations run one after the other, in the order of the calls, on a thread of [`offload`]: an operation takes
/// the microseconds of some system calls, or about one second for each group whose order of slots must be found out.
/// No call of this type waits for an operation.
#[derive(Debug, Clone)]
pub(crate) struct Groups(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    summary: Mutex<Summary>,
}

/// The operations that have not begun.
struct Queue {
    /// `None` while a thread performs operations on the table.
    table: Option<Table>,
    operations: VecDeque<Operation>,
}

type Operation = Box<dyn FnOnce(&mut Table, &Shared) + Send>;

/// What can be read without an operation: the state after the last operation that has ended.
#[derive(Debug, Clone)]
struct Summary {
    addresses: Vec<SocketAddr>,
    tier: SteeringMode,
}

impl Groups {
    pub(crate) fn new(table: Table) -> Groups {
        let summary = Mutex::new(Summary::of(&table));
        let queue = Mutex::new(Queue { table: Some(table), operations: VecDeque::new() });
        Groups(Arc::new(Shared { queue, summary }))
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        lock(&self.0.summary).addresses.clone()
    }

    /// How new connections will be moved.
    pub(crate) fn tier(&self) -> SteeringMode {
        lock(&self.0.summary).tier
    }

    /// Begins an operation whose result is not needed, after all operations that were begun before.
    pub(crate) fn post(&self, operation: impl FnOnce(&mut Table) + Send + 'static) {
        self.begin(operation, |()| {});
    }

    /// Begins an operation at once, after all operations that were begun before; the future waits for its result.
    /// Dropping the future does not stop the operation.
    ///
    /// # Errors
    /// [`Stalled::Panicked`].
    pub(crate) fn run<T: Send + 'static, F: FnOnce(&mut Table) -> T + Send + 'static>(
        &self,
        operation: F,
    ) -> impl Future<Output = Result<T, Stalled>> + Send + use<T, F> {
        let (reply, result) = oneshot::channel();
        // An error means that nobody waits for the result.
        self.begin(operation, |result| drop(reply.send(result)));
        async move { result.await.map_err(|_| Stalled::Panicked) }
    }

    /// As [`Groups::run`], for an operation that may fail.
    ///
    /// # Errors
    /// The errors of the operation, or its panic.
    pub(crate) fn try_run<T: Send + 'static, F>(
        &self,
        operation: F,
    ) -> impl Future<Output = Result<T, SteeringError>> + Send + use<T, F>
    where
        F: FnOnce(&mut Table) -> Result<T, SteeringError> + Send + 'static,
    {
        let result = self.run(operation);
        async move { result.await? }
    }

    /// Calls `act` with the listeners that the kernel shows in the groups, and with what `look` finds about the
    /// processes that may have those listeners.
    ///
    /// `look` may take long, so it runs on a thread of `lane`, beside the operations. It begins after the kernel was
    /// asked, so that it finds the owner of each listener. If a listener has joined since, the look is repeated.
    ///
    /// # Errors
    /// [`Stalled::Panicked`].
    pub(crate) async fn look<L: Send + 'static, T: Send + 'static>(
        &self,
        lane: &Lane,
        look: impl Fn() -> L + Send + Sync + 'static,
        act: impl FnOnce(&mut Table, &Shown, L) -> T + Send + 'static,
    ) -> Result<T, Stalled> {
        let (look, mut act) = (Arc::new(look), act);
        let mut before = self.run(|table| table.shown()).await?;
        let mut looks = 0;
        // A group whose listeners never stop joining is acted on with the listeners that were there before the last look.
        loop {
            looks += 1;
            let look = look.clone();
            let found = lane.run(move || look()).await?;
            let acted = self.run(move |table| {
                if looks == LOOKS {
                    return Ok(act(table, &before, found));
                }
                let now = table.shown();
                match now.adds_nothing_to(&before) {
                    true => Ok(act(table, &now, found)),
                    false => Err((now, act)),
                }
            });
            match acted.await? {
                Ok(done) => return Ok(done),
                Err((now, again)) => (before, act) = (now, again),
            }
        }
    }

    /// Begins an operation. Its result goes to `done`, which is called when the summary says what the operation has
    /// changed.
    fn begin<T>(
        &self,
        operation: impl FnOnce(&mut Table) -> T + Send + 'static,
        done: impl FnOnce(T) + Send + 'static,
    ) {
        let operation = Box::new(move |table: &mut Table, shared: &Shared| {
            let result = operation(table);
            shared.summarise(table);
            done(result);
        });
        let table = {
            let mut queue = lock(&self.0.queue);
            queue.operations.push_back(operation);
            queue.table.take()
        };
        if let Some(table) = table {
            let shared = self.0.clone();
            offload::detach(move || shared.perform_all(table));
        }
    }
}

impl Shared {
    fn summarise(&self, table: &Table) {
        *lock(&self.summary) = Summary::of(table);
    }

    /// Performs operations until none is left.
    fn perform_all(&self, mut table: Table) {
        loop {
            let operation = {
                let mut queue = lock(&self.queue);
                match queue.operations.pop_front() {
                    Some(operation) => operation,
                    None => {
                        queue.table = Some(table);
                        return;
                    }
                }
            };
            // A panic was logged by the panic hook, and leaves the groups as usable as they were.
            if catch_unwind(AssertUnwindSafe(|| operation(&mut table, self))).is_err() {
                self.summarise(&table);
            }
        }
    }
}

impl Summary {
    fn of(table: &Table) -> Summary {
        Summary { addresses: table.addresses(), tier: table.tier() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("table", &self.table).field("operations", &self.operations.len()).finish()
    }
}
