//! When an HTTP connection is closed by the server: its generation retires or stops, or its client sends no more.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;

use crate::runtime::connections::Stage;
use crate::runtime::stream::Shared;

/// How long a connection that was closed by us is listened to, so that the close does not overtake the answer.
const READ_TO_NOWHERE: Duration = Duration::from_secs(1);

/// How long a server that stops waits for the first request of a connection that it has just taken.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Into how many parts a time is divided in which something must not happen: it ends up to one part too late.
const LOOKS: u32 = 4;

/// When a retiring generation says goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseTiming {
    /// HTTP/1.1: with the next answer, or when the connection has been idle for long. To close it earlier races with the
    /// client's next request.
    WhenIdle,
    /// HTTP/2: its GOAWAY races with nothing (RFC 9113, 6.8).
    AtOnce,
}

/// Runs a connection to its end; `say` tells it to end when nothing is under way on it, `silent` when to give it up.
pub(super) async fn finish<C: Future>(
    mut connection: Pin<&mut C>,
    say: impl FnOnce(Pin<&mut C>),
    mut silent: Pin<&mut impl Future<Output = ()>>,
    shared: &Shared,
    stage: &mut watch::Receiver<Stage>,
    goodbye: CloseTiming,
) {
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        _ = stage.wait_for(|stage| *stage != Stage::Serving) => {}
        () = silent.as_mut() => return,
    }
    // Boxed: the task of each connection would have room for what only a retiring generation needs.
    let left = Box::pin(leave(connection, say, shared, stage.clone(), goodbye));
    tokio::select! {
        biased;
        () = left => {}
        _ = stage.wait_for(|stage| *stage == Stage::ForceClosed) => {}
        () = silent => {}
    }
}

/// Runs a connection to its end in a generation that retires or stops.
async fn leave<C: Future>(
    mut connection: Pin<&mut C>,
    say: impl FnOnce(Pin<&mut C>),
    shared: &Shared,
    mut stage: watch::Receiver<Stage>,
    goodbye: CloseTiming,
) {
    let grace = stage.borrow().grace();
    // A whole request that waits is hyper's to take: the answer before it may still be on its way to a slow client.
    let part = || if shared.is_answering() { None } else { shared.pipeline().partial_head() };
    let mut part = pin!(no_more_comes(part, grace));
    let mut time = pin!(time_to_leave(shared, &mut stage));
    let (mut say, mut is_time) = (Some(say), false);
    // After each step of the connection, so that it ends as soon as an answer that was begun before is sent.
    poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if say.is_none() {
            return Poll::Pending;
        }
        is_time = is_time || time.as_mut().poll(cx).is_ready();
        let ends = match goodbye {
            CloseTiming::AtOnce => true,
            // The answer to a request that is under way decides for itself.
            CloseTiming::WhenIdle => {
                part.as_mut().poll(cx).is_ready() || (is_time && !shared.is_answering() && !shared.waits())
            }
        };
        if ends && goodbye == CloseTiming::WhenIdle && shared.is_fresh() {
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

/// Closes a connection that has ended, if all parts of it have.
pub(super) async fn close(shared: &Shared, stage: &mut watch::Receiver<Stage>) {
    tokio::select! {
        biased;
        _ = stage.wait_for(|stage| *stage == Stage::ForceClosed) => shared.cut(),
        _ = tokio::time::timeout(READ_TO_NOWHERE, shared.close_gently()) => {}
    }
}

/// Waits until the header of a request has been waited for as long as `timeout`, or up to a quarter more.
pub(super) async fn no_header_comes(shared: &Shared, timeout: Duration) {
    let (mut requests, mut silent) = (shared.requests(), 0);
    while silent < LOOKS {
        tokio::time::sleep(timeout / LOOKS).await;
        let still = !shared.is_answering() && shared.requests() == requests;
        requests = shared.requests();
        silent = if still { silent + 1 } else { 0 };
    }
}

/// Waits until a part of something has come, and then nothing for as long as `grace`, or up to a quarter more. `part` is
/// how often bytes have come, if a part of it has.
async fn no_more_comes(part: impl Fn() -> Option<u32>, grace: Duration) {
    let (mut before, mut silent) = (part(), 0);
    while silent < LOOKS {
        tokio::time::sleep(grace / LOOKS).await;
        let now = part();
        silent = if now.is_some() && now == before { silent + 1 } else { 0 };
        before = now;
    }
}

/// Waits until a connection is given up on which it is not known yet which HTTP is spoken.
pub(super) async fn no_request_comes(shared: &Shared, stage: &mut watch::Receiver<Stage>) {
    let _ = stage.wait_for(|stage| *stage != Stage::Serving).await;
    let (grace, mut stages) = (stage.borrow().grace(), stage.clone());
    let part = || {
        let pipeline = shared.pipeline();
        // What looks like a whole head is one of HTTP/2's preface (RFC 9113, 3.4).
        pipeline.waits().then(|| pipeline.reads())
    };
    let idle = async {
        time_to_leave(shared, &mut stages).await;
        if shared.waits() {
            std::future::pending().await
        }
    };
    tokio::select! {
        () = idle => {}
        () = no_more_comes(part, grace) => {}
        _ = stage.wait_for(|stage| *stage == Stage::ForceClosed) => {}
    }
}

/// Waits until a connection is to be closed as soon as nothing is under way on it.
async fn time_to_leave(shared: &Shared, stage: &mut watch::Receiver<Stage>) {
    loop {
        let now = *stage.borrow_and_update();
        let time = async {
            match now {
                Stage::Serving => std::future::pending().await,
                Stage::Retiring { since, grace } => {
                    tokio::time::sleep_until(since + grace + shared.guard.spread(grace / LOOKS)).await;
                }
                Stage::Stopping { .. } if shared.is_fresh() => tokio::time::sleep(FIRST_REQUEST).await,
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
