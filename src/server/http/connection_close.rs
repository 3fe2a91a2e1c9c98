//! When an HTTP connection is closed by the server: its generation retires or stops, or its client sends no more.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;

use crate::runtime::connections::Stage;
use crate::runtime::stream::Shared;

/// How long a client must have been silent before the server stops to read a connection that the server closes. An earlier
/// close could overtake the response.
pub(super) const SILENCE: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(1) };
/// How long the server reads such a connection at most, if the client goes on sending a body that is not wanted.
const READ_TO_NOWHERE: Duration = Duration::from_secs(30);

/// How long a stopping server waits for the first request of a connection that it has just accepted.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Number of intervals into which a timeout for inactivity is divided. Activity is checked once per interval, so the
/// timeout ends up to one interval late.
const LOOKS: u32 = 4;

/// When a retiring generation tells the client that it will close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseTiming {
    /// HTTP/1.1: with the next response, or when the connection has been idle for long. An earlier close would race
    /// with the client's next request.
    WhenIdle,
    /// HTTP/2: whatever is under way, because GOAWAY does not race with requests (RFC 9113, 6.8); but not on all
    /// connections at once, so that the clients do not all reconnect at once.
    Spread,
}

/// Runs a connection to its end. `say` tells the connection to end when no request is under way on it; `silent`
/// completes when the connection is to be given up, and `aged` when it has lived long enough.
pub(super) async fn finish<C: Future>(
    mut connection: Pin<&mut C>,
    say: impl FnOnce(Pin<&mut C>),
    mut silent: Pin<&mut impl Future<Output = ()>>,
    aged: impl Future<Output = ()>,
    shared: &Shared,
    stage: &mut watch::Receiver<Stage>,
    timing: CloseTiming,
) {
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        _ = stage.wait_for(|stage| *stage != Stage::Serving) => {}
        () = silent.as_mut() => return,
        () = aged => {}
    }
    // Boxed, because the task of each connection would otherwise reserve memory that only a retiring generation needs.
    let left = Box::pin(leave(connection, say, shared, stage.clone(), timing));
    tokio::select! {
        biased;
        () = left => {}
        () = is_closed(shared, stage) => {}
        () = silent => {}
    }
}

/// Waits until the connection is closed whatever is under way. The tunnels of HTTP/2 end as upgraded connections do: their
/// handlers have the last second of the process for a goodbye.
async fn is_closed(shared: &Shared, stage: &mut watch::Receiver<Stage>) {
    let _ = stage.wait_for(|stage| *stage == Stage::ForceClosed).await;
    if shared.tunnelled.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

/// Runs a connection to its end in a generation that retires or stops.
async fn leave<C: Future>(
    mut connection: Pin<&mut C>,
    say: impl FnOnce(Pin<&mut C>),
    shared: &Shared,
    mut stage: watch::Receiver<Stage>,
    timing: CloseTiming,
) {
    let grace = shared.stage(*stage.borrow()).grace();
    // A complete request that waits is left to hyper: the response before it may still be on its way to a slow client.
    let part = || if shared.is_answering() { None } else { shared.pipeline().partial_head() };
    let mut part = pin!(no_more_comes(part, grace));
    let mut time = pin!(time_to_leave(shared, &mut stage, timing));
    let (mut say, mut is_time) = (Some(say), false);
    // Checked after each poll of the connection, so that the connection ends as soon as a response that was begun
    // before is sent.
    poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if say.is_none() {
            return Poll::Pending;
        }
        is_time = is_time || time.as_mut().poll(cx).is_ready();
        let ends = match timing {
            CloseTiming::Spread => is_time,
            // While a request is under way, its response decides whether the connection ends.
            CloseTiming::WhenIdle => {
                part.as_mut().poll(cx).is_ready() || (is_time && !shared.is_answering() && !shared.waits())
            }
        };
        if ends && timing == CloseTiming::WhenIdle && shared.is_fresh() {
            // hyper does not end a connection on which it has begun to read a first request, or empty lines before one.
            return Poll::Ready(());
        }
        match say.take_if(|_| ends) {
            Some(say) => {
                say(connection.as_mut());
                connection.as_mut().poll(cx).map(drop)
            }
            None => Poll::Pending,
        }
    })
    .await;
}

/// Closes a connection after all its parts have ended.
pub(super) async fn close(shared: &Shared, stage: &mut watch::Receiver<Stage>) {
    tokio::select! {
        biased;
        _ = stage.wait_for(|stage| *stage == Stage::ForceClosed) => shared.cut(),
        _ = tokio::time::timeout(READ_TO_NOWHERE, shared.close_gently(SILENCE)) => {}
    }
}

/// Waits until the server has waited for a request header for `timeout`, or for up to a quarter more.
pub(super) async fn no_header_comes(shared: &Shared, timeout: Duration) {
    let (mut requests, mut silent) = (shared.requests(), 0);
    while silent < LOOKS {
        tokio::time::sleep(timeout / LOOKS).await;
        let still = !shared.is_answering() && shared.requests() == requests;
        requests = shared.requests();
        silent = if still { silent + 1 } else { 0 };
    }
}

/// Waits until the client has taken no byte of a response for `timeout`, or for up to a quarter more; for ever without a
/// timeout.
pub(super) async fn no_write_goes(shared: &Shared, timeout: Option<Duration>) {
    let Some(timeout) = timeout else { return std::future::pending().await };
    let (mut writes, mut stuck) = (shared.writes(), 0);
    while stuck < LOOKS {
        // Boxed, because most servers have no such timeout, and each connection would reserve memory for its timer.
        Box::pin(tokio::time::sleep(timeout / LOOKS)).await;
        let still = shared.has_unsent() && shared.writes() == writes;
        writes = shared.writes();
        stuck = if still { stuck + 1 } else { 0 };
    }
}

/// Waits until the connection has lived for `age`, or for up to a quarter more, and begins to end it; for ever without an
/// age. The ends of the connections are spread over that quarter.
pub(super) async fn grows_old(shared: &Shared, age: Option<Duration>, grace: Duration) {
    let Some(age) = age else { return std::future::pending().await };
    // Boxed as above.
    Box::pin(tokio::time::sleep(age + shared.guard.spread(age / LOOKS))).await;
    shared.end_after(grace);
}

/// Waits until a part of a message has come, and then no more of it for `grace`, or for up to a quarter more. `part`
/// returns how often bytes have come, or `None` if there is no part.
async fn no_more_comes(part: impl Fn() -> Option<u32>, grace: Duration) {
    let (mut before, mut silent) = (part(), 0);
    while silent < LOOKS {
        tokio::time::sleep(grace / LOOKS).await;
        let now = part();
        silent = if now.is_some() && now == before { silent + 1 } else { 0 };
        before = now;
    }
}

/// Waits until a connection on which no request has been read yet is to be given up. `begun` returns how often bytes have
/// come, once a request or the handshake before it has begun.
pub(super) async fn no_more_begins(
    shared: &Shared,
    stage: &mut watch::Receiver<Stage>,
    begun: impl Fn() -> Option<u32>,
) {
    let _ = stage.wait_for(|stage| *stage != Stage::Serving).await;
    let (grace, mut stages) = (stage.borrow().grace(), stage.clone());
    let idle = async {
        time_to_leave(shared, &mut stages, CloseTiming::WhenIdle).await;
        if begun().is_some() || shared.waits() {
            std::future::pending().await
        }
    };
    tokio::select! {
        () = idle => {}
        () = no_more_comes(&begun, grace) => {}
        _ = stage.wait_for(|stage| *stage == Stage::ForceClosed) => {}
    }
}

/// Waits for the moment from which the connection is to be closed as soon as no request is under way on it.
async fn time_to_leave(shared: &Shared, stage: &mut watch::Receiver<Stage>, timing: CloseTiming) {
    loop {
        let now = shared.stage(*stage.borrow_and_update());
        let time = async {
            match now {
                Stage::Serving => std::future::pending().await,
                Stage::Retiring { since, grace } => {
                    let begin = match timing {
                        CloseTiming::WhenIdle => since + grace,
                        CloseTiming::Spread => since,
                    };
                    tokio::time::sleep_until(begin + shared.guard.spread(grace / LOOKS)).await;
                }
                Stage::Stopping { .. } if timing == CloseTiming::WhenIdle && shared.is_fresh() => {
                    tokio::time::sleep(FIRST_REQUEST).await
                }
                Stage::Stopping { .. } | Stage::ForceClosed => {}
            }
        };
        tokio::select! {
            biased;
            () = time => return,
            _ = stage.changed() => {}
        }
    }
}
