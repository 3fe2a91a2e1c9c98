//! The main promise over a slow line: with 100 ms from a SYN to its last ACK, a handshake is always in flight when a
//! generation closes its listeners. Needs root and /dev/net/tun.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::load::{Load, Mode, Plan, Report};
use crate::support::process::{Instance, Start};
use crate::support::skip;
use crate::support::wan::{Quality, Wan};

const ONE_WAY: Duration = Duration::from_millis(50);
const ROUND_TRIP: Duration = Duration::from_millis(100);
/// A request on a connection of its own takes two round trips, so that 60 clients make about 270 connections a second.
const LOADS: u32 = 20;
const CLIENTS_OF_EACH: usize = 3;
const PAUSE_MAX: Duration = Duration::from_millis(40);
/// The default of `--linger`.
const LINGER: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);
const RELOADS: u64 = 10;
const SOON: Duration = Duration::from_secs(20);

/// `None`, reported as skipped, where no line can be made; CI must not skip it.
fn line(loss_per_mille: u64, seed: u64) -> Option<Wan> {
    let made = Wan::with(Quality { one_way: ONE_WAY, loss_per_mille, seed });
    made.map_err(|why| skip(&why)).ok()
}

/// The kernel's treatment of connections that wait at a closed listener.
#[derive(Clone, Copy)]
enum Migration {
    Off,
    On,
}

/// A line with this setting on the server's side.
fn line_with(migration: Migration) -> Option<Wan> {
    let wan = line(0, 0)?;
    let set = match migration {
        Migration::On => wan.set_sysctl("net/ipv4/tcp_migrate_req", "1"),
        Migration::Off => Ok(()),
    };
    set.map_err(|error| skip(&format!("tcp_migrate_req cannot be set (Linux 5.14): {error}"))).ok()?;
    Some(wan)
}

/// A server at one end and its clients at the other.
struct Trial<'a> {
    wan: &'a Wan,
    server: Instance,
    /// Each load has a pause of its own, so that the clients do not all connect in the same millisecond, again and
    /// again.
    loads: Vec<Load>,
}

/// The sum over all loads.
struct Sum {
    answered: u64,
    failed: u64,
    generations: BTreeSet<u64>,
    slowest: Duration,
}

impl<'a> Trial<'a> {
    fn begin(wan: &'a Wan, start: Start, mode: Mode) -> Trial<'a> {
        let server = serve(wan, start);
        let plan = |nth: u32| {
            let pause = PAUSE_MAX * nth / LOADS;
            Plan { pause, timeout: PATIENCE, ..Plan::new([wan.server_addr()], CLIENTS_OF_EACH, mode) }
        };
        let loads: Vec<Load> = wan.client_side(|| (0..LOADS).map(|nth| plan(nth).start()).collect());
        // In these first rounds the loads drift apart.
        loads[0].wait_answered(6 * CLIENTS_OF_EACH as u64, SOON);
        Trial { wan, server, loads }
    }

    /// Reloads, each time after all loads have met the last generation, and returns the retired generations.
    fn reload(&self, reloads: u64) -> Vec<(u64, u32)> {
        let one = |generation| {
            let pid = self.server.main_pid();
            self.server.reload();
            self.loads.iter().for_each(|load| load.wait_generation(generation + 1, SOON));
            (generation, pid)
        };
        (1..=reloads).map(one).collect()
    }

    /// Prints the answered and the failed requests, and each packet of some failed ones.
    fn end(self) -> (Instance, Sum) {
        let reports: Vec<Report> = self.loads.into_iter().map(Load::stop).collect();
        let sum = Sum {
            answered: reports.iter().map(|report| report.answered).sum(),
            failed: reports.iter().map(|report| report.failures.total()).sum(),
            generations: reports.iter().flat_map(|report| report.generations.iter().copied()).collect(),
            slowest: reports.iter().map(|r| Duration::from_micros(r.latency.max())).max().unwrap_or_default(),
        };
        println!("{} answered, {} failed, the slowest took {:?}", sum.answered, sum.failed, sum.slowest);
        let (carried, dropped) = self.wan.carried_and_dropped();
        println!("the line carried {carried} packets and dropped {dropped}");
        let port = |example: &str| example.split("; port ").nth(1)?.split(' ').next()?.parse().ok();
        for example in reports.iter().flat_map(|report| &report.examples).take(5) {
            println!("  {example}\n{}", port(example).map(|port| self.wan.packets_of(port)).unwrap_or_default());
        }
        (self.server, sum)
    }
}

impl Sum {
    #[track_caller]
    fn assert_nothing_lost(&self) {
        assert!(self.failed == 0 && self.answered > 0, "{} answered, {} failed", self.answered, self.failed);
    }
}

fn serve(wan: &Wan, start: Start) -> Instance {
    let address = wan.server_addr().to_string();
    wan.server_side(|| start.listen(&address).ready())
}

fn unsteered() -> Start {
    Start::serve().env("CUTOVER_STEERING", "off")
}

/// The time in which a generation closed its listeners, from its log.
fn time_of_retiring(server: &Instance, (generation, pid): (u64, u32)) -> Duration {
    let phase = format!(" generation={generation} pid={pid} from=retiring to=draining elapsed=");
    let line = server.wait_log(&phase, SOON);
    let took = line.split(&phase).nth(1).unwrap_or_default();
    let (number, unit) = took.split_at(took.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(took.len()));
    let unit = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        _ => panic!("no time in: {line}"),
    };
    Duration::from_secs_f64(number.parse::<f64>().expect("a number") * unit)
}

/// Reloads under load, and asserts that no request is lost.
fn nothing_is_lost(wan: &Wan, start: Start, mode: Mode, tier: &str) {
    let trial = Trial::begin(wan, start, mode);
    trial.reload(RELOADS);
    let (server, sum) = trial.end();
    sum.assert_nothing_lost();
    assert!(sum.generations.len() as u64 > RELOADS, "the clients saw only {:?}", sum.generations);
    for green in 2..=RELOADS + 1 {
        server.wait_log(&format!(" go to the next generation generation={green} tier={tier}"), SOON);
    }
}

/// Negative control: without a linger time, reloads under load must lose handshakes in flight.
fn some_are_lost(start: Start) {
    let Some(wan) = line_with(Migration::Off) else { return };
    let trial = Trial::begin(&wan, start.args(["--linger", "0s"]), Mode::Close);
    trial.reload(RELOADS);
    let (_, sum) = trial.end();
    assert!(sum.failed > 0, "a close without waiting lost none of {}", sum.answered);
}

#[test]
fn steered() {
    let Some(wan) = line_with(Migration::Off) else { return };
    nothing_is_lost(&wan, Start::serve(), Mode::Close, "steered");
}

#[test]
fn steered_with_three_listeners() {
    let Some(wan) = line_with(Migration::Off) else { return };
    let start = Start::serve().args(["--listeners-per-address", "3"]);
    nothing_is_lost(&wan, start, Mode::Close, "steered");
}

#[test]
fn steered_and_kept_alive() {
    let Some(wan) = line_with(Migration::Off) else { return };
    nothing_is_lost(&wan, Start::serve(), Mode::KeepAlive, "steered");
}

/// A request that was sent before its client has heard the GOAWAY comes up to a round trip later.
#[test]
fn steered_and_http_2() {
    let Some(wan) = line_with(Migration::Off) else { return };
    nothing_is_lost(&wan, Start::serve(), Mode::Http2, "steered");
}

#[test]
fn steered_and_migrating() {
    let Some(wan) = line_with(Migration::On) else { return };
    nothing_is_lost(&wan, Start::serve(), Mode::Close, "steered");
}

#[test]
fn steered_and_migrating_with_three_listeners() {
    let Some(wan) = line_with(Migration::On) else { return };
    let start = Start::serve().args(["--listeners-per-address", "3"]);
    nothing_is_lost(&wan, start, Mode::Close, "steered");
}

/// Without steering, the kernel moves waiting connections to the next generation.
#[test]
fn migrating() {
    let Some(wan) = line_with(Migration::On) else { return };
    nothing_is_lost(&wan, unsteered(), Mode::Close, "migrating");
}

/// With neither, the retiring listener ignores new handshakes, which clients repeat after a second.
#[test]
fn best_effort() {
    let Some(wan) = line_with(Migration::Off) else { return };
    nothing_is_lost(&wan, unsteered(), Mode::Close, "best effort");
}

#[test]
fn a_plain_restart_loses() {
    some_are_lost(unsteered());
}

/// Negative control: steering alone, without the wait for handshakes in flight, loses requests.
#[test]
fn steering_without_waiting_loses() {
    some_are_lost(Start::serve());
}

/// The wait lasts as long as the handshakes, and not for a fixed time.
#[test]
fn retiring_takes_a_handshake_under_load_and_no_time_without() {
    let Some(wan) = line_with(Migration::Off) else { return };
    let idle = {
        let server = serve(&wan, Start::serve());
        let once = |generation| {
            let pid = server.main_pid();
            server.reload();
            time_of_retiring(&server, (generation, pid))
        };
        (1..=5).map(once).min().unwrap_or_default()
    };
    let trial = Trial::begin(&wan, Start::serve(), Mode::Close);
    let retired = trial.reload(5);
    let (server, sum) = trial.end();
    let busy: Vec<Duration> = retired.into_iter().map(|one| time_of_retiring(&server, one)).collect();
    println!("retiring took {idle:?} without load, {busy:?} with it");
    sum.assert_nothing_lost();
    // The rest of both times is a grace period of RCU, which varies by some 10 ms on a busy machine.
    assert!(busy.iter().all(|took| *took > idle + ROUND_TRIP / 2), "it took {idle:?} without load, {busy:?} with it");
    assert!(busy.iter().all(|took| *took < LINGER), "some of {busy:?} ended only with the linger time");
}

/// A lost packet is sent again after one second, then two, then four: with a linger time that is long enough for that,
/// a request may be slow, and none is lost.
#[test]
fn lossy() {
    let Some(wan) = line(20, 77) else { return };
    let trial = Trial::begin(&wan, Start::serve().args(["--linger", "60s"]), Mode::Close);
    let retired = trial.reload(3);
    let (server, sum) = trial.end();
    let took: Vec<Duration> = retired.into_iter().map(|one| time_of_retiring(&server, one)).collect();
    println!("retiring took {took:?}");
    let cut_short = server.count_log("handshakes in flight when the linger time was over");
    println!("{cut_short} generations closed before all handshakes had ended");
    sum.assert_nothing_lost();
}
