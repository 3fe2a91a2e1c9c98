//! Latency at rest and during a reload, in alternating windows, at a load below the server's capacity.

use super::figures::{Figures, grouped, print_table, row};
use crate::Extent;
use crate::support::load::{Mode, Plan};
use crate::support::process::{Instance, Start};
use hdrhistogram::Histogram;
use std::thread::sleep;
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(1);
/// The time from the start of a window to the reload, so that the window has a part before and a part after the reload.
const RELOAD_AT: Duration = Duration::from_millis(300);
const WITHIN: Duration = Duration::from_secs(20);
const TARGET: f64 = 1.1;
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("most", 1.0)];

/// The latencies of the windows of one kind: at rest, or with a reload.
struct Windows {
    all: Histogram<u64>,
    each: Vec<Histogram<u64>>,
}

/// Whether a window contains a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum During {
    Rest,
    Reload,
}

/// The number of windows of each kind, and their length. A restart takes some milliseconds. That is more than a
/// thousandth of a window of one second, so p99.9 measures the restart itself, and less than a thousandth of a window
/// of ten seconds.
#[derive(Clone, Copy, Debug)]
struct Turns {
    length: Duration,
    pairs: usize,
}

pub(crate) fn measure(extent: Extent) {
    let turns = |seconds, pairs| Turns { length: Duration::from_secs(seconds), pairs };
    for turns in extent.choose(&[turns(1, 10), turns(10, 6)][..], &[turns(1, 3)][..]) {
        let Turns { length, pairs } = turns;
        println!(
            "Latency: {CLIENTS} clients that pause {PAUSE:?}, {pairs} windows of {length:?} at rest and {pairs} with a reload, in turn; µs"
        );
        compare("keep-alive", Mode::KeepAlive, *turns);
        compare("a connection for each request", Mode::Close, *turns);
    }
    println!(
        "  in (): median and quartiles of the windows' own; `ratio` is reload by rest; target for p99.9: {TARGET}"
    );
}

fn compare(what: &str, mode: Mode, turns: Turns) {
    let server = Start::serve().ready();
    let (mut rest, mut reload) = (Windows::new(), Windows::new());
    for pair in 0..turns.pairs {
        // The order alternates: A B, B A, …
        let order = if pair % 2 == 0 { [During::Rest, During::Reload] } else { [During::Reload, During::Rest] };
        for during in order {
            let latency = window(&server, mode, during, turns.length);
            match during {
                During::Rest => rest.add(latency),
                During::Reload => reload.add(latency),
            }
        }
    }
    let seconds = turns.length.as_secs_f64() * turns.pairs as f64;
    let rate = grouped(rest.all.len() as f64 / seconds, 0);
    let mut rows =
        vec![row([&format!("{what}, {rate} requests/s"), &"at rest", &"", &"reloading", &"", &"ratio", &""])];
    for (name, quantile) in QUANTILES {
        let [at_rest, reloading] = [&rest, &reload].map(|windows| windows.all.value_at_quantile(quantile));
        let ratio = reloading as f64 / at_rest.max(1) as f64;
        let (each_rest, each_reload) = (rest.of_each(quantile), reload.of_each(quantile));
        rows.push(row([
            &name,
            &grouped(at_rest as f64, 0),
            &format!("({})", each_rest.quartiles(0)),
            &grouped(reloading as f64, 0),
            &format!("({})", each_reload.quartiles(0)),
            &format!("{ratio:.2}"),
            &format!("({})", each_reload.ratios(&each_rest).quartiles(2)),
        ]));
    }
    print_table(&rows);
}

fn window(server: &Instance, mode: Mode, during: During, length: Duration) -> Histogram<u64> {
    let load = Plan { pause: PAUSE, ..Plan::new(server.addrs(), CLIENTS, mode) };
    let (load, end) = (load.start(), Instant::now() + length);
    sleep(RELOAD_AT);
    let blue = server.main_pid();
    if during == During::Reload {
        server.reload();
    }
    sleep(end.saturating_duration_since(Instant::now()));
    let report = load.stop();
    report.assert_nothing_lost();
    if during == During::Reload {
        assert_eq!(report.generations.len(), 2, "{report}");
        // The remaining work of blue must not be part of the next window.
        server.wait_gone(blue, WITHIN);
    }
    report.latency
}

impl Windows {
    fn new() -> Windows {
        Windows { all: Histogram::new(3).expect("three digits are possible"), each: Vec::new() }
    }

    fn add(&mut self, window: Histogram<u64>) {
        self.all.add(&window).expect("this one grows as needed");
        self.each.push(window);
    }

    fn of_each(&self, quantile: f64) -> Figures {
        self.each.iter().map(|window| window.value_at_quantile(quantile) as f64).collect()
    }
}
