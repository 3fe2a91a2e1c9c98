//! The clients of the control socket: a bounded number, of which an idle one makes room for a new one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// So many at once.
const MAX: usize = 64;

/// Those that are connected, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Clients {
    connected: Mutex<VecDeque<(Client, AbortHandle)>>,
    left: Notify,
}

/// One of them, as far as it matters whether it may be cut off.
#[derive(Debug, Clone, Default)]
pub(super) struct Client(Arc<AtomicUsize>);

/// A request that is being answered, until this is dropped.
#[derive(Debug)]
pub(super) struct Busy(Client);

impl Client {
    /// From now on it is not cut off to make room.
    pub(super) fn busy(&self) -> Busy {
        self.0.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    fn is_idle(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Clients {
    /// Takes one in, and cuts the oldest idle one off if there are too many. If none is idle the new one is not taken.
    pub(super) fn enter<F>(self: &Arc<Self>, serve: impl FnOnce(Client) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut connected = self.connected();
        if connected.len() >= MAX {
            let Some(idle) = connected.iter().position(|(client, _)| client.is_idle()) else { return };
            if let Some((_, task)) = connected.remove(idle) {
                task.abort();
            }
        }
        let client = Client::default();
        let (serving, all, me) = (serve(client.clone()), self.clone(), client.clone());
        let task = tokio::spawn(async move {
            // Dropped when the task is aborted, too.
            let _leaves = Leaves { all, me };
            serving.await;
        });
        connected.push_back((client, task.abort_handle()));
    }

    /// Waits until all have left.
    pub(super) async fn gone(&self) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.connected().is_empty() {
                return;
            }
            left.await;
        }
    }

    fn connected(&self) -> MutexGuard<'_, VecDeque<(Client, AbortHandle)>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Leaves {
    all: Arc<Clients>,
    me: Client,
}

impl Drop for Leaves {
    fn drop(&mut self) {
        self.all.connected().retain(|(client, _)| !Arc::ptr_eq(&client.0, &self.me.0));
        self.all.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(clients: &Clients) -> usize {
        clients.connected().len()
    }

    #[tokio::test]
    async fn an_idle_one_makes_room_and_a_busy_one_does_not() {
        let clients = Arc::new(Clients::default());
        let mut busy = Vec::new();
        clients.enter(|client| {
            busy.push(client.busy());
            std::future::pending()
        });
        for _ in 0..1000 {
            clients.enter(|_| std::future::pending());
            assert!(count(&clients) <= MAX);
        }
        let first = clients.connected()[0].0.clone();
        assert!(!first.is_idle(), "the oldest stays, for it is busy");
        drop(busy);
        assert!(first.is_idle());
    }

    #[tokio::test]
    async fn where_all_are_busy_a_new_one_is_not_taken() {
        let clients = Arc::new(Clients::default());
        let mut busy = Vec::new();
        for _ in 0..=MAX {
            clients.enter(|client| {
                busy.push(client.busy());
                std::future::pending()
            });
        }
        assert_eq!((count(&clients), busy.len()), (MAX, MAX));
    }

    #[tokio::test]
    async fn who_has_left_is_forgotten() {
        let clients = Arc::new(Clients::default());
        clients.enter(|_| std::future::ready(()));
        clients.gone().await;
        assert_eq!(count(&clients), 0);
    }
}
