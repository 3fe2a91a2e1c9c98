//! Reloads of real servers in other languages, under load: no request fails that cutover is answerable for.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::load::{Answer, Load, Mode, Plan, Report};
use crate::support::programs::{Port, Program};
use crate::support::run::Run;

const RELOADS: u64 = 30;
const CLIENTS: usize = 16;
const SOON: Duration = Duration::from_secs(30);

fn name(signal: Signal) -> String {
    signal.as_raw().to_string()
}

fn plan(address: SocketAddr, mode: Mode) -> Plan {
    // With a pause, so that the next generation gets its share of a small machine.
    Plan { answer: Answer::Pid, pause: Duration::from_millis(2), ..Plan::new([address], CLIENTS, mode) }
}

/// Reloads, each time when the clients have seen some hundred answers more.
fn reload_under_load(program: Program, modes: &[Mode], arguments: &[&str]) -> Vec<Report> {
    let port = Port::free();
    let Some(served) = program.at(port.address) else { return vec![] };
    let stop = name(served.stop_signal);
    let run = Run::at(port.address, &served.command).args(["--stop-signal", &stop]).args(arguments).ready();
    let loads: Vec<Load> = modes.iter().map(|mode| plan(port.address, *mode).start()).collect();
    let wait = || loads.iter().for_each(|load| load.wait_answered(100, SOON));
    wait();
    for generation in 2..=RELOADS + 1 {
        run.reload_to(generation);
        wait();
    }
    let reports: Vec<Report> = loads.into_iter().map(Load::stop).collect();
    for report in &reports {
        println!("{program:?}: {RELOADS} reloads: {report}");
        assert!(report.pids.len() as u64 > RELOADS, "only {} processes have answered: {report}", report.pids.len());
    }
    run.wait_no_zombies();
    reports
}

/// Nothing at all fails: what keeps its connections ends them gently.
fn nothing_fails(program: Program) {
    let reports = reload_under_load(program, &[Mode::Close, Mode::KeepAlive], &[]);
    reports.iter().for_each(Report::assert_nothing_lost);
}

/// It closes kept connections as it likes; of new ones none is lost.
fn nothing_fails_but_on_kept_connections(program: Program) {
    let reports = reload_under_load(program, &[Mode::Close, Mode::KeepAlive], &[]);
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
