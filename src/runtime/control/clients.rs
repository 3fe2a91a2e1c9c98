//! The clients of the control socket. Their number is limited; at the limit, an idle client is disconnected for a new
//! one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// How many clients may be connected at once.
const MAX: usize = 64;
/// How long a client must be idle before it may be disconnected: on a busy machine its request may not have been read
/// yet.
const LEFT_ALONE: Duration = Duration::from_millis(250);

/// The connected clients, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Clients {
    connected: Mutex<VecDeque<(Client, AbortHandle)>>,
    left: Notify,
}

/// One client, as far as it decides whether the client may be disconnected.
#[derive(Debug, Clone)]
pub(super) struct Client(Arc<Mutex<Doing>>);

#[derive(Debug)]
struct Doing {
    answering: usize,
    /// When the client was first read from, or when its last answer ended. `None` until the first read.
    since: Option<Instant>,
}

/// A request that is being answered, until this is dropped.
#[derive(Debug)]
pub(super) struct Busy(Client);

impl Client {
    fn new() -> Client {
        Client(Arc::new(Mutex::new(Doing { answering: 0, since: None })))
    }

    /// Counts a request as being answered until the returned value is dropped. Until then the client is not
    /// disconnected to make room.
    pub(super) fn busy(&self) -> Busy {
        self.doing().answering += 1;
        Busy(self.clone())
    }

    /// Notes that the client was read from: what it had sent by then was seen.
    pub(super) fn heard(&self) {
        self.doing().since.get_or_insert_with(Instant::now);
    }

    /// Since when the client has been idle, if it is.
    fn idle_since(&self) -> Option<Instant> {
        let doing = self.doing();
        doing.since.filter(|_| doing.answering == 0)
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut doing = self.0.doing();
        doing.answering -= 1;
        doing.since = Some(Instant::now());
    }
}

impl Clients {
    /// Waits until there is room for one more client. If there is none, disconnects the client that is idle longest,
    /// but only after it was read from and has been idle for [`LEFT_ALONE`]. Cancel safe.
    pub(super) async fn room(&self) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            let wait = match self.make_room() {
                Ok(()) => return,
                Err(wait) => wait,
            };
            let _ = tokio::time::timeout(wait, left).await;
        }
    }

    /// Makes room if possible. The error is how long to wait before the next try.
    fn make_room(&self) -> Result<(), Duration> {
        let mut connected = self.connected();
        if connected.len() < MAX {
            return Ok(());
        }
        let idle = connected.iter().enumerate().filter_map(|(at, (client, _))| Some((client.idle_since()?, at)));
        let Some((since, at)) = idle.min() else { return Err(LEFT_ALONE) };
        match LEFT_ALONE.checked_sub(since.elapsed()) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                if let Some((_, task)) = connected.remove(at) {
                    task.abort();
                }
                Ok(())
            }
        }
    }

    /// Adds a client, and runs `serve` for it in a task of its own.
    pub(super) fn enter<F>(self: &Arc<Self>, serve: impl FnOnce(Client) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut connected = self.connected();
        let client = Client::new();
        let (serving, all, me) = (serve(client.clone()), self.clone(), client.clone());
        let task = tokio::spawn(async move {
            // Also dropped when the task is aborted.
            let _leaves = Leaves { all, me };
            serving.await;
        });
        connected.push_back((client, task.abort_handle()));
    }

    /// Waits until all clients have left.
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

    async fn enter_all(clients: &Arc<Clients>, count: usize) -> Vec<Client> {
        let mut entered = Vec::new();
        for _ in 0..count {
            clients.room().await;
            clients.enter(|client| {
                client.heard();
                entered.push(client);
                std::future::pending()
            });
        }
        entered
    }

    fn is_connected(clients: &Clients, one: &Client) -> bool {
        clients.connected().iter().any(|(client, _)| Arc::ptr_eq(&client.0, &one.0))
    }

    #[tokio::test]
    async fn who_is_idle_longest_makes_room_but_not_before_it_was_heard() {
        let clients = Arc::new(Clients::default());
        let began = Instant::now();
        let entered = enter_all(&clients, MAX).await;
        let busy = entered[0].busy();
        // Its answer has just ended.
        drop(entered[1].busy());
        clients.room().await;
        assert!(began.elapsed() >= LEFT_ALONE);
        assert_eq!(count(&clients), MAX - 1);
        assert!(is_connected(&clients, &entered[0]) && is_connected(&clients, &entered[1]));
        assert!(!is_connected(&clients, &entered[2]));
        drop(busy);
    }

    #[tokio::test]
    async fn who_was_not_listened_to_is_not_cut_off() {
        let clients = Arc::new(Clients::default());
        for _ in 0..MAX {
            clients.enter(|_| std::future::pending());
        }
        tokio::time::timeout(3 * LEFT_ALONE, clients.room()).await.expect_err("no room");
    }

    #[tokio::test]
    async fn where_all_are_busy_a_new_one_waits_until_one_leaves() {
        let clients = Arc::new(Clients::default());
        let busy: Vec<Busy> = enter_all(&clients, MAX).await.iter().map(Client::busy).collect();
        tokio::time::timeout(3 * LEFT_ALONE, clients.room()).await.expect_err("no room");
        assert_eq!((count(&clients), busy.len()), (MAX, MAX));
        let leaves = clients.connected()[7].1.clone();
        leaves.abort();
        tokio::time::timeout(Duration::from_secs(5), clients.room()).await.expect("room");
    }

    #[tokio::test]
    async fn who_has_left_is_forgotten() {
        let clients = Arc::new(Clients::default());
        clients.enter(|_| std::future::ready(()));
        clients.gone().await;
        assert_eq!(count(&clients), 0);
    }
}
