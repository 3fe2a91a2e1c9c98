//! The report of a load: the number of answers, the generations that gave them, and the kinds of failures.

use super::client::Kind;
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Instant;

#[derive(Debug)]
pub struct Report {
    pub answered: u64,
    pub failures: Failures,
    pub generations: BTreeSet<u64>,
    pub pids: BTreeSet<u32>,
    /// The number of requests that each generation answered.
    pub answered_by: BTreeMap<u64, u64>,
    /// The start time of the newest connection that failed.
    pub last_lost: Option<Instant>,
    /// Failures of requests on a reused connection. A server that closes idle connections may cause them.
    pub lost_reused: u64,
    /// The time from the request (with its connect, if there was one) to the whole response, in microseconds. Only
    /// answered requests count.
    pub latency: Histogram<u64>,
    pub connections: u64,
    /// Descriptions of the first 20 failures.
    pub examples: Vec<String>,
}

impl Report {
    /// # Panics
    /// If no request was answered, or a request failed.
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        assert!(self.failures.total() == 0 && self.answered > 0, "{self}");
    }

    /// # Panics
    /// If a connection failed that was begun after this moment, or no request was answered.
    #[track_caller]
    pub fn assert_nothing_lost_after(&self, moment: Instant) {
        if let Some(after) = self.last_lost.and_then(|lost| lost.checked_duration_since(moment)) {
            panic!("a connection failed that was begun {after:?} after the moment: {self}");
        }
        assert!(self.answered > 0, "{self}");
    }

    /// # Panics
    /// If no request was answered, or a request failed that was the first on its connection. A server that closes idle
    /// connections causes only failures on reused ones.
    #[track_caller]
    pub fn assert_nothing_lost_but_on_reused(&self) {
        assert!(self.failures.total() == self.lost_reused && self.answered > 0, "{self}");
    }

    /// The share of the answers that this generation gave, as a percentage.
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

pub(super) fn list(examples: &[String]) -> String {
    let lines = examples.iter().map(|example| format!("\n  {example}"));
    lines.collect()
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    pub refused: u64,
    /// ECONNRESET or EPIPE, at any point.
    pub reset: u64,
    /// End of file before the first byte of a response.
    pub eof_before: u64,
    pub eof_within: u64,
    pub timeout: u64,
    /// A complete response that is not the expected one, or bytes that are not HTTP.
    pub wrong: u64,
    pub other: u64,
}

impl Failures {
    pub fn total(&self) -> u64 {
        let Failures { refused, reset, eof_before, eof_within, timeout, wrong, other } = self;
        refused + reset + eof_before + eof_within + timeout + wrong + other
    }

    pub(super) fn count(&mut self, kind: Kind) {
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
