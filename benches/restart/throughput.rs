//! Requests per second, and the server's CPU time per request, compared with hyper without cutover.
//!
//! Client and server share the CPUs, so the rate depends on both. The server's CPU time per request is the more stable
//! measure.

use super::figures::{Figures, grouped, print_table, row};
use super::servers::{BODY, Kind, Serving};
use crate::Extent;
use crate::support::load::{Answer, Mode, Plan};
use std::thread::sleep;
use std::time::{Duration, Instant};

const CLIENTS: usize = 32;
const LOAD_THREADS: usize = 1;
/// The time after which the connections are established and the server is warm.
const WARM_UP: Duration = Duration::from_millis(40);

/// The quantile of the undisturbed windows. Other programs can only make a request more expensive, so the cheapest
/// windows are the undisturbed ones.
const UNDISTURBED: f64 = 0.1;

/// The measurements of one server in one window.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// Requests per second.
    rate: f64,
    /// The server's CPU time per request, in microseconds.
    cpu: f64,
}

pub(crate) fn measure(extent: Extent) {
    let (rounds, length) = extent.choose((80, Duration::from_millis(200)), (12, Duration::from_millis(200)));
    println!(
        "Throughput: {CLIENTS} clients on {LOAD_THREADS} thread, {rounds} interleaved rounds of {length:?} each; median (quartiles)"
    );
    compare("keep-alive", Mode::KeepAlive, 0.98, rounds, length);
    compare("a connection for each request", Mode::Close, 0.95, rounds, length);
    println!(
        "  `of bare` is the median of the ratios within a round; for CPU time bare by this one, so more is better;"
    );
    println!("  `undisturbed` is the CPU time of the cheapest tenth of the rounds: what disturbs can only add to it");
}

fn compare(what: &str, mode: Mode, target: f64, rounds: usize, length: Duration) {
    let servers = Kind::ALL.map(Serving::start);
    let mut windows: [Vec<Window>; 3] = Default::default();
    for round in 0..rounds {
        // The order alternates (A B C, C B A, …), so that a change in the machine's speed affects all servers alike.
        for place in 0..servers.len() {
            let place = if round % 2 == 0 { place } else { servers.len() - 1 - place };
            windows[place].push(window(&servers[place], mode, length));
        }
    }
    let rates = windows.each_ref().map(|of_one| of_one.iter().map(|w| w.rate).collect::<Figures>());
    let cpus = windows.each_ref().map(|of_one| of_one.iter().map(|w| w.cpu).collect::<Figures>());
    let mut rows =
        vec![row([&what, &"requests/s", &"of bare", &"CPU µs/request", &"of bare", &"undisturbed", &"of bare"])];
    for (place, server) in servers.iter().enumerate() {
        let (rate, cpu) = (&rates[place], &cpus[place]);
        rows.push(row([
            &server.kind.name(),
            &rate.quartiles(0),
            &rate.ratios(&rates[0]).quartiles(3),
            &cpu.quartiles(2),
            &cpus[0].ratios(cpu).quartiles(3),
            &grouped(cpu.quantile(UNDISTURBED), 2),
            &grouped(cpus[0].quantile(UNDISTURBED) / cpu.quantile(UNDISTURBED), 3),
        ]));
    }
    rows.push(row([&"target", &"", &target, &"", &target, &"", &target]));
    print_table(&rows);
}

fn window(server: &Serving, mode: Mode, length: Duration) -> Window {
    let load = Plan {
        answer: Answer::Exact(BODY.to_vec()),
        threads: LOAD_THREADS,
        ..Plan::new([server.address], CLIENTS, mode)
    };
    let load = load.start();
    sleep(WARM_UP);
    let (begun, answered, cpu) = (Instant::now(), load.answered(), server.cpu_time());
    sleep(length);
    let (took, answered, cpu) = (begun.elapsed(), load.answered() - answered, server.cpu_time() - cpu);
    load.stop().assert_nothing_lost();
    assert!(answered > 0, "{} did not answer for {length:?}", server.kind.name());
    let answered = answered as f64;
    Window { rate: answered / took.as_secs_f64(), cpu: cpu.as_secs_f64() * 1e6 / answered }
}
