//! An outsider that a reload needs and that does not answer: the reload is refused with the reason, and the old
//! generation serves on. A stop needs no outsider.

use std::time::Duration;

use rustix::process::Signal;

use super::bench::{Face, ORPHAN, Outsider, Setup};
use crate::support::app::Options;
use crate::support::script;
use crate::support::stall::Stall;

const READY: &str = "2s";
const PREFLIGHT: &str = "its preflight (the disk of its executable, the hook or the check) has not answered in 2s";
const NOT_READY: &str = "did not become ready in 2s";

/// Two attempts: the first one, which still hangs, does not block the second.
fn refuses_and_stops(setup: Setup, stall: Option<Stall>, why: &str) {
    let bench = setup.start();
    bench.stalls(stall);
    bench.refuses(why);
    bench.refuses(why);
    bench.stops();
}

#[test]
fn the_disk_of_the_executable_of_serve() {
    let bench = Setup::new(Face::Serve, 1).deployed().args(&["--ready-timeout", READY]).start();
    bench.stalls(Some(Stall::Files(bench.bin())));
    bench.refuses(PREFLIGHT);
    bench.refuses(PREFLIGHT);
    bench.stops();
}

#[test]
fn the_disk_of_the_executable_of_run() {
    let python = Stall::Files("/usr/bin/python3".into());
    refuses_and_stops(Setup::new(Face::Run, 1).args(&["--ready-timeout", READY]), Some(python), PREFLIGHT);
}

#[test]
fn the_hook_of_the_application() {
    let options = Options { hook_hangs: true, ready_timeout: Duration::from_secs(2), ..Options::default() };
    refuses_and_stops(Setup::new(Face::Library, 1).options(options), None, PREFLIGHT);
}

#[test]
fn the_preflight_check() {
    let setup = Setup::new(Face::Run, 1).args(&["--ready-timeout", READY, "--preflight", "sleep 1000"]);
    refuses_and_stops(setup, None, PREFLIGHT);
}

#[test]
fn the_resolver() {
    let setup = Setup::new(Face::Serve, 1).listen_on("localhost").args(&["--ready-timeout", READY]);
    refuses_and_stops(setup, Some(Stall::Files("/etc/hosts".into())), NOT_READY);
}

/// A process that hangs in the kernel does not show its memory: here an orphan of the live generation.
#[test]
fn the_memory_of_an_orphan() {
    let setup = Setup::new(Face::Run, 1).script(ORPHAN).args(&["--ready-timeout", READY]).without(&[Outsider::Memory]);
    refuses_and_stops(setup, None, "the live processes cannot be examined: no answer in 2s");
}

/// A next generation that is suspended (SIGSTOP) is killed at the end of its ready timeout.
#[test]
fn a_next_generation_that_is_stopped() {
    let bench = Setup::new(Face::Serve, 1).deployed().args(&["--ready-timeout", READY]).start();
    let real = env!("CARGO_BIN_EXE_cutover");
    script::executable(&bench.bin().join("server"), &format!("#!/bin/sh\nkill -STOP $$\nexec {real} \"$@\"\n"));
    bench.refuses(NOT_READY);
    bench.refuses(NOT_READY);
    bench.stops();
}

/// A draining generation that is suspended (SIGSTOP) does not react: neither reloads nor a stop wait for it longer than
/// a drain may take.
#[test]
fn a_generation_before_that_is_stopped() {
    let bench = Setup::new(Face::Serve, 1).debug().start();
    let (drains, _held) = bench.held();
    bench.reload();
    bench.has_handed_over(1);
    bench.signal(drains, Signal::STOP);
    bench.reload();
    bench.reload();
    bench.stops_but(drains);
}
