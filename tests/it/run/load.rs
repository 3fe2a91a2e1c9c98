//! Reloads of real servers in other languages, under load: no request fails for which cutover is responsible.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::load::{Answer, Load, Mode, Plan, Report};
use crate::support::process::Start;
use crate::support::programs::{Port, Program};
use crate::support::run::Run;
use crate::support::seccomp::Refused;
use crate::support::verb::Verb;

const RELOADS: u64 = 30;
const CLIENTS: usize = 16;
const SOON: Duration = Duration::from_secs(30);

fn name(signal: Signal) -> String {
    signal.as_raw().to_string()
}

/// The library's own server, which detects that it is supervised.
#[test]
fn the_reference_server() {
    serve_under_load(&[]).iter().for_each(Report::assert_nothing_lost);
}

/// Without steering and without migration the retiring server ignores new handshakes, which clients repeat a second
/// later.
#[test]
fn the_reference_server_without_steering() {
    serve_under_load(&[("CUTOVER_STEERING", "off")]).iter().for_each(Report::assert_nothing_lost);
}

fn serve_under_load(environment: &[(&str, &str)]) -> Vec<Report> {
    let port = Port::free();
    let serve = [env!("CARGO_BIN_EXE_cutover"), "serve", "--idle-grace", "1s", "--listen", &port.address.to_string()];
    let with = |start| environment.iter().fold(start, |start: Start, (key, value)| start.env(key, value));
    let run = Run::at(port.address, serve).with(with).ready();
    let plan = |mode| Plan { pause: Duration::from_millis(2), ..Plan::new([port.address], CLIENTS, mode) };
    let loads = [Mode::Close, Mode::KeepAlive].map(|mode| plan(mode).start());
    for generation in 2..=RELOADS + 1 {
        run.reload_to(generation);
        loads[0].wait_generation(generation, SOON);
    }
    let reports: Vec<Report> = loads.into_iter().map(Load::stop).collect();
    reports.iter().for_each(|report| println!("serve {environment:?}: {RELOADS} reloads: {report}"));
    assert!(!run.log_contains(" has joined the group "), "{}", run.log());
    reports
}

/// Negative control: no steering, and no linger time before the stop signal.
#[test]
fn without_steering_and_without_patience_requests_are_lost_and_counted() {
    let port = Port::free();
    let Some(served) = Program::Python.at(port.address) else { return };
    let run = Run::at(port.address, &served.command).args(["--linger", "0s"]);
    let run = run.with(|start| start.env("CUTOVER_STEERING", "off")).ready();
    let load = Plan { pause: Duration::ZERO, ..plan(port.address, Mode::Close) }.start();
    load.wait_answered(100, SOON);
    for generation in 2..=RELOADS + 1 {
        run.reload_to(generation);
        if load.failed_so_far() > 0 {
            break;
        }
    }
    let report = load.stop();
    assert!(report.failures.total() > 0, "nothing was lost: {report}");
}

fn plan(address: SocketAddr, mode: Mode) -> Plan {
    // The pause leaves the next generation its share of a small machine.
    Plan { answer: Answer::Pid, pause: Duration::from_millis(2), ..Plan::new([address], CLIENTS, mode) }
}

/// Reloads repeatedly, and lets the clients get some hundred answers in between.
fn reload_under_load(program: Program, with: impl FnOnce(Run) -> Run) -> Vec<Report> {
    let port = Port::free();
    let Some(served) = program.at(port.address) else { return vec![] };
    let stop = name(served.stop_signal);
    let run = with(Run::at(port.address, &served.command).args(["--stop-signal", &stop])).ready();
    let loads: Vec<Load> =
        [Mode::Close, Mode::KeepAlive].into_iter().map(|mode| plan(port.address, mode).start()).collect();
    let wait = || loads.iter().for_each(|load| load.wait_answered(100, SOON));
    wait();
    for generation in 2..=RELOADS + 1 {
        run.reload_to(generation);
        wait();
    }
    let reports: Vec<Report> = loads.into_iter().map(Load::stop).collect();
    reports.iter().for_each(|report| println!("{program:?}: {RELOADS} reloads: {report}"));
    // The other clients keep their connections, and need not meet every process.
    let fresh = &reports[0];
    assert!(fresh.pids.len() as u64 > RELOADS, "only {} processes have answered: {fresh}", fresh.pids.len());
    // The result must come from steering, and not from a lucky hash of the kernel.
    assert!(!run.log_contains(" not steered, "), "{}", run.log());
    run.wait_no_zombies();
    reports
}

/// No request fails at all: a program that keeps connections alive ends them gracefully.
fn nothing_fails(program: Program) {
    let reports = reload_under_load(program, |run| run);
    reports.iter().for_each(Report::assert_nothing_lost);
}

/// The program closes kept connections at any time; on new connections no request is lost.
fn nothing_fails_but_on_kept_connections(program: Program) {
    let reports = reload_under_load(program, |run| run);
    reports.iter().for_each(Report::assert_nothing_lost_but_on_reused);
    reports.iter().take(1).for_each(Report::assert_nothing_lost);
}

#[test]
fn python() {
    nothing_fails(Program::Python);
}

#[test]
fn gunicorn_with_four_workers() {
    nothing_fails(Program::Gunicorn);
}

/// As in a container with Docker's own profile.
#[test]
fn gunicorn_with_four_workers_of_whose_listeners_no_copy_may_be_had() {
    let refused = |run: Run| run.with(|start| start.refused(Refused::PidfdGetfd));
    let reports = reload_under_load(Program::Gunicorn, refused);
    reports.iter().for_each(Report::assert_nothing_lost);
}

#[test]
fn node() {
    nothing_fails(Program::Node);
}

#[test]
fn node_with_four_workers() {
    nothing_fails(Program::NodeCluster);
}

#[test]
fn nginx_with_four_workers() {
    nothing_fails_but_on_kept_connections(Program::Nginx);
}

/// `cutover stop` waits for all processes, the supervisor included.
#[test]
fn a_stop_waits_for_the_supervisor() {
    let port = Port::free();
    let Some(served) = Program::Python.at(port.address) else { return };
    let run = Run::at(port.address, &served.command).ready();
    let status = run.status();
    assert_eq!(status.supervisor.map(cutover::Pid::number), Some(run.first_pid()));
    let ended = Verb::new("stop").within(&run.directory().join("run")).args(["--name", "it"]).run();
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    // At most a zombie is left, because this test is its parent.
    assert_eq!(run.pids(), [] as [u32; 0], "{}", run.log());
}
