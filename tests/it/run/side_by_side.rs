//! The treatment of kept connections at a stop depends on the program alone: with cutover and without, side by side.

use std::time::Duration;

use crate::support::load::{Answer, Mode, Plan, Report};
use crate::support::process::{Instance, Start};
use crate::support::programs::{Port, Program, Served};
use crate::support::run::Run;

const SOON: Duration = Duration::from_secs(60);

/// CI only shows that the measurement works; `load.rs` does thirty reloads with cutover.
fn rounds() -> u64 {
    if std::env::var_os("CI").is_some() { 3 } else { 10 }
}

fn loads(port: &Port) -> [crate::support::load::Load; 2] {
    let pause = Duration::from_millis(2);
    let plan = |mode| Plan { answer: Answer::Pid, pause, ..Plan::new([port.address], 16, mode) };
    [Mode::Close, Mode::KeepAlive].map(|mode| plan(mode).start())
}

/// A restart by hand: start a second copy, and when the copy answers, send the stop signal to the first.
fn without(program: Program) -> Option<[Report; 2]> {
    let port = Port::free();
    let served = program.at(port.address)?;
    let begin = |served: &Served| Start::program(&served.command[0]).args(&served.command[1..]).spawn();
    let mut blue: Instance = begin(&served);
    // Each worker must have answered: a signal to a worker that was just forked may be lost.
    let wait = |copy: &Instance| {
        let load = Plan { answer: Answer::Pid, ..Plan::new([port.address], 8, Mode::Close) }.start();
        copy.pids().iter().for_each(|_| load.wait_answered(200, SOON));
    };
    wait(&blue);
    let loads = loads(&port);
    let mut older = Vec::new();
    for _ in 0..rounds() {
        let next = program.at(port.address)?;
        let green = begin(&next);
        wait(&green);
        blue.signal(blue.first_pid(), served.stop_signal);
        loads.iter().for_each(|load| load.wait_answered(100, SOON));
        older.push((std::mem::replace(&mut blue, green), next));
    }
    Some(loads.map(crate::support::load::Load::stop))
}

fn with(program: Program) -> Option<[Report; 2]> {
    let port = Port::free();
    let served = program.at(port.address)?;
    let stop = served.stop_signal.as_raw().to_string();
    let run = Run::at(port.address, &served.command).args(["--stop-signal", &stop]).ready();
    let loads = loads(&port);
    for generation in 2..=rounds() + 1 {
        run.reload_to(generation);
        loads.iter().for_each(|load| load.wait_answered(100, SOON));
    }
    Some(loads.map(crate::support::load::Load::stop))
}

fn compare(program: Program) {
    let (Some(without), Some(with)) = (without(program), with(program)) else { return };
    let rounds = rounds();
    for (what, [close, keep_alive]) in [("without cutover", &without), ("with cutover", &with)] {
        println!(
            "{program:?} {what}: {rounds} restarts, a connection for each request: {} of {} failed; kept alive: {} of {} \
             failed, {} of them on a used connection",
            close.failures.total(),
            close.answered,
            keep_alive.failures.total(),
            keep_alive.answered,
            keep_alive.lost_reused,
        );
    }
    with[0].assert_nothing_lost();
    with[1].assert_nothing_lost_but_on_reused();
}

#[test]
fn nginx() {
    compare(Program::Nginx);
}

#[test]
fn gunicorn() {
    compare(Program::Gunicorn);
}

#[test]
fn node() {
    compare(Program::Node);
}

#[test]
fn python() {
    compare(Program::Python);
}
