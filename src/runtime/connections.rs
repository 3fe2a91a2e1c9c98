//! Counts the connections of this generation, and tells them when the generation retires.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::requests::Requests;
use crate::model::status::ConnectionKinds;

/// What the connections have to know about their generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// New requests are welcome.
    Serving,
    /// Another generation takes new connections: requests that come are answered, and with the answer the client is
    /// told that the connection closes. An idle connection is closed when it has been idle for `grace`.
    Retiring { since: Instant, grace: Duration },
    /// No generation follows this one: idle connections are closed now. The rest of a request that has begun to come is
    /// waited for, unless nothing more of it comes for `grace`.
    Stopping { grace: Duration },
    /// All connections that are left are closed now.
    ForceClosed,
}

impl Stage {
    /// How long a connection may receive nothing before it is closed.
    pub(crate) fn grace(self) -> Duration {
        match self {
            Stage::Retiring { grace, .. } | Stage::Stopping { grace } => grace,
            Stage::Serving | Stage::ForceClosed => Duration::ZERO,
        }
    }
}

/// The protocol that is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Fresh,
    Http1,
    Http2,
    Upgraded,
    Tcp,
}

/// How many kinds there are.
const KINDS: usize = Kind::Tcp as usize + 1;

/// The connections of one generation.
#[derive(Debug)]
pub(crate) struct Connections {
    open: AtomicUsize,
    accepted: AtomicUsize,
    kinds: [AtomicUsize; KINDS],
    requests: Requests,
    limit: usize,
    /// Notified when a connection has ended so that there is room again, or none is left.
    ended: Notify,
    stage: watch::Sender<Stage>,
    /// Whether the stage is not [`Stage::Serving`], for code that reads it for each request.
    leaving: AtomicBool,
}

impl Connections {
    /// No connections, of a generation that serves.
    #[cfg(test)]
    pub(crate) fn new(limit: usize) -> Arc<Connections> {
        Connections::at(watch::Sender::new(Stage::Serving), limit)
    }

    /// No connections, of a generation whose stage is shared with other receivers of `stage`.
    pub(crate) fn at(stage: watch::Sender<Stage>, limit: usize) -> Arc<Connections> {
        Arc::new(Connections {
            open: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            kinds: Default::default(),
            requests: Requests::default(),
            limit,
            ended: Notify::new(),
            stage,
            leaving: AtomicBool::new(false),
        })
    }

    /// Counts one more connection, until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> Guard {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.kinds[Kind::Fresh as usize].fetch_add(1, Ordering::Relaxed);
        let (number, kind) = (self.accepted.fetch_add(1, Ordering::Relaxed), AtomicU8::new(Kind::Fresh as u8));
        Guard { number, kind, connections: self.clone() }
    }

    /// How many connections were accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// The requests of HTTP on these connections.
    pub(crate) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// How many connections are open, by kind.
    pub(crate) fn kinds(&self) -> ConnectionKinds {
        let of = |kind: Kind| u64::try_from(self.kinds[kind as usize].load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        ConnectionKinds {
            fresh: of(Kind::Fresh),
            http1: of(Kind::Http1),
            http2: of(Kind::Http2),
            upgraded: of(Kind::Upgraded),
            tcp: of(Kind::Tcp),
        }
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Waits until there is room for one more connection. Cancel safe.
    pub(crate) async fn room(&self) {
        self.until(|open| open < self.limit).await;
    }

    /// Waits until no connection is left. Cancel safe.
    pub(crate) async fn gone(&self) {
        self.until(|open| open == 0).await;
    }

    async fn until(&self, enough: impl Fn(usize) -> bool) {
        // Most often there is nothing to wait for.
        while !enough(self.open.load(Ordering::Acquire)) {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Registered before another look, so that an end between the look and the wait is not missed.
            ended.as_mut().enable();
            if enough(self.open.load(Ordering::Acquire)) {
                return;
            }
            ended.await;
        }
    }

    /// Whether this generation retires or stops. Costs one load.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Waits until this generation retires or stops. Cancel safe.
    pub(crate) async fn leaving(&self) {
        // `self` holds the sender, so this cannot fail.
        let _ = self.watch().wait_for(|stage| *stage != Stage::Serving).await;
    }

    /// Waits until the generation closes all connections that are left. Cancel safe.
    pub(crate) async fn force_closed(&self) {
        let _ = self.watch().wait_for(|stage| *stage == Stage::ForceClosed).await;
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// Enters a stage. Nothing follows [`Stage::ForceClosed`]; the caller keeps the order of the others.
    pub(crate) fn enter_stage(&self, stage: Stage) {
        self.leaving.store(true, Ordering::Relaxed);
        self.stage.send_if_modified(|now| {
            let later = !matches!(*now, Stage::ForceClosed) && *now != stage;
            if later {
                *now = stage;
            }
            later
        });
    }
}

/// One connection, counted until this guard is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    number: usize,
    kind: AtomicU8,
    connections: Arc<Connections>,
}

impl Guard {
    pub(crate) fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// From now on the connection counts as one of this kind.
    pub(crate) fn becomes(&self, kind: Kind) {
        let before = self.kind.swap(kind as u8, Ordering::Relaxed);
        self.connections.kinds[usize::from(before)].fetch_sub(1, Ordering::Relaxed);
        self.connections.kinds[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the connection counts as one of this kind.
    pub(crate) fn is(&self, kind: Kind) -> bool {
        self.kind.load(Ordering::Relaxed) == kind as u8
    }

    /// A part of `whole` for this connection. The parts of all connections are spread evenly over `whole`; the parts of
    /// consecutive connections lie far apart.
    pub(crate) fn spread(&self, whole: Duration) -> Duration {
        // The golden ratio gives the most even spread for any count (three-distance theorem).
        const GOLDEN: u32 = 0x9e37_79b9;
        let number = u32::try_from(self.number & 0xffff_ffff).unwrap_or_default();
        whole.mul_f64(f64::from(number.wrapping_mul(GOLDEN)) / 4_294_967_296.0)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.connections.kinds[usize::from(*self.kind.get_mut())].fetch_sub(1, Ordering::Relaxed);
        let before = self.connections.open.fetch_sub(1, Ordering::Release);
        // No task waits for any other number.
        if before == 1 || before >= self.connections.limit {
            self.connections.ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_and_the_end_are_waited_for() {
        let connections = Connections::new(2);
        let (a, b) = (connections.enter(), connections.enter());
        let waiting = tokio::spawn({
            let connections = connections.clone();
            async move { connections.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "two of two are open");
        drop(a);
        waiting.await.expect("room");
        drop(b);
        connections.gone().await;
        assert_eq!(connections.open(), 0);
    }

    #[test]
    fn each_is_counted_as_what_it_is_now() {
        let connections = Connections::new(10);
        let (a, b) = (connections.enter(), connections.enter());
        a.becomes(Kind::Http1);
        a.becomes(Kind::Upgraded);
        b.becomes(Kind::Http2);
        let kinds = connections.kinds();
        assert_eq!((kinds.fresh, kinds.http1, kinds.http2, kinds.upgraded), (0, 0, 1, 1));
        drop((a, b));
        assert_eq!((connections.kinds(), connections.accepted()), (ConnectionKinds::default(), 2));
    }

    #[test]
    fn idle_connections_are_spread_over_the_whole_time() {
        let connections = Connections::new(10);
        let whole = Duration::from_secs(10);
        let mut at: Vec<Duration> = (0..100).map(|_| connections.enter().spread(whole)).collect();
        at.sort();
        assert!(at[0] < whole / 10 && at[99] > whole * 9 / 10, "{at:?}");
        assert!(at.windows(2).all(|pair| pair[1] - pair[0] < whole / 30), "{at:?}");
    }

    #[tokio::test]
    async fn a_stream_hears_of_the_drain_and_of_its_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let tcp = tokio::net::TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let connections = Connections::new(1);
        let socket = tcp.into_std().expect("deregistered").into();
        let stream = crate::runtime::stream::Stream::new(socket, None, connections.enter()).expect("registered");
        let stream = Arc::new(stream);
        let waiting = tokio::spawn({
            let stream = stream.clone();
            async move { stream.drain_ended().await }
        });
        connections.enter_stage(Stage::Retiring { since: Instant::now(), grace: Duration::ZERO });
        stream.retiring().await;
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "the drain has only begun");
        connections.enter_stage(Stage::ForceClosed);
        waiting.await.expect("ended");
    }

    #[test]
    fn no_stage_comes_after_the_hammer() {
        let connections = Connections::new(1);
        connections.enter_stage(Stage::ForceClosed);
        connections.enter_stage(Stage::Stopping { grace: Duration::ZERO });
        assert_eq!(*connections.watch().borrow(), Stage::ForceClosed);
    }
}
