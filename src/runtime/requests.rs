//! What the application has made of the requests so far: a few atomic additions for each request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::model::latency::{self, BUCKETS};

/// The classes of status codes (RFC 9110, 15), 1xx to 5xx.
pub(crate) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The requests of one generation.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    responses: [AtomicU64; CLASSES.len()],
    failed: AtomicU64,
    panicked: AtomicU64,
    cancelled: AtomicU64,
    /// From the moment at which the application has the request to the head of its response.
    pub(crate) to_response: Times,
    /// From that moment to the end of the response's body.
    pub(crate) to_end: Times,
}

/// Why a request has no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoResponse {
    /// The service has returned an error.
    Error,
    /// The service has panicked.
    Panic,
    /// The service was dropped: the client has gone, or its connection was closed.
    Cancelled,
}

impl Requests {
    /// Counts a response with this status, whose head took so long.
    pub(crate) fn responded(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        self.responses[class].fetch_add(1, Ordering::Relaxed);
        self.to_response.add(took);
    }

    /// Counts a request without a response.
    pub(crate) fn not_responded(&self, why: NoResponse) {
        self.of(why).fetch_add(1, Ordering::Relaxed);
    }

    /// How many responses there were, by class.
    pub(crate) fn responses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CLASSES.into_iter().zip(self.responses.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// How many requests have no response for this reason.
    pub(crate) fn without_response(&self, why: NoResponse) -> u64 {
        self.of(why).load(Ordering::Relaxed)
    }

    fn of(&self, why: NoResponse) -> &AtomicU64 {
        match why {
            NoResponse::Error => &self.failed,
            NoResponse::Panic => &self.panicked,
            NoResponse::Cancelled => &self.cancelled,
        }
    }
}

/// How long something took, in buckets of fixed memory.
#[derive(Debug)]
pub(crate) struct Times {
    buckets: Box<[AtomicU64; BUCKETS]>,
    micros: AtomicU64,
}

impl Default for Times {
    fn default() -> Times {
        Times { buckets: Box::new([const { AtomicU64::new(0) }; BUCKETS]), micros: AtomicU64::new(0) }
    }
}

impl Times {
    pub(crate) fn add(&self, time: Duration) {
        self.buckets[latency::bucket(time)].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The sum of all times.
    pub(crate) fn sum(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }

    /// The counts by the bounds that the times are below, one for each doubling.
    pub(crate) fn doublings(&self) -> Vec<(Duration, u64)> {
        let counts: Vec<u64> = self.buckets.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let chunks = counts.chunks(latency::STEPS).enumerate();
        let bound = |nth: usize| latency::upper_bound((nth + 1) * latency::STEPS - 1);
        chunks.map(|(nth, counts)| (bound(nth), counts.iter().sum())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_counted_once_and_in_its_place() {
        let requests = Requests::default();
        for (status, micros) in [(200, 10), (204, 100), (302, 1000), (404, 20), (500, 2_000_000), (599, 3)] {
            requests.responded(status, Duration::from_micros(micros));
        }
        requests.not_responded(NoResponse::Panic);
        assert_eq!(Vec::from_iter(requests.responses().map(|(_, count)| count)), [0, 2, 1, 1, 2]);
        assert_eq!(
            [NoResponse::Error, NoResponse::Panic, NoResponse::Cancelled].map(|why| requests.without_response(why)),
            [0, 1, 0]
        );
        assert_eq!(requests.to_response.sum(), Duration::from_micros(2_001_133));
        let below = |bound| {
            let all = requests.to_response.doublings().into_iter();
            all.filter(|(upper, _)| *upper <= Duration::from_micros(bound)).map(|(_, count)| count).sum::<u64>()
        };
        assert_eq!([16, 32, 128, 1024, 1 << 20, 1 << 21].map(below), [2, 3, 4, 5, 5, 6]);
    }
}
