//! `docker kill --signal HUP` under load from outside, through the published port.

use std::time::Duration;

use super::{PUBLISH, RUN, SOON, live, reload_to, run_perl, run_serve};
use crate::support::docker::{Container, Engine};
use crate::support::load::{Answer, Load, Mode, Plan, Report};
use crate::support::systemd::said;

const RELOADS: u64 = 20;
const CLIENTS: usize = 8;
const SYSCTL: &[&str] = &["--sysctl", "net.ipv4.tcp_migrate_req=1"];
/// With this option Docker's seccomp profile permits pidfd_getfd(2), also for a user who does not get the capability
/// itself.
const PTRACE: &[&str] = &["--cap-add", "SYS_PTRACE"];

/// Reloads repeatedly, and lets the clients get answers in between. One load opens a connection for each request, the
/// other keeps its connections alive.
fn reloads(engine: &'static Engine, container: &Container, answer: &Answer) -> [Report; 2] {
    let server = container.published(8080);
    let loads = [Mode::Close, Mode::KeepAlive].map(|mode| {
        let plan = Plan::new([server], CLIENTS, mode);
        engine.load(Plan { pause: Duration::from_millis(2), answer: answer.clone(), ..plan })
    });
    let wait = || loads.iter().for_each(|load| load.wait_answered(100, SOON));
    wait();
    for generation in 2..=RELOADS + 1 {
        reload_to(container, generation);
        wait();
    }
    let reports = loads.map(Load::stop);
    for report in &reports {
        println!("{RELOADS} reloads: {report}");
    }
    let met = reports[0].generations.len() as u64;
    assert!(met > RELOADS, "only {met} generations have answered: {}", reports[0]);
    reports
}

#[track_caller]
fn steering(container: &Container) -> String {
    let status = said(&container.exec(&["/cutover", "status"]));
    let line = status.lines().find_map(|line| line.strip_prefix("steering "));
    line.unwrap_or_else(|| panic!("no word of steering: {status}")).trim().to_owned()
}

#[track_caller]
fn nothing_is_lost(engine: &'static Engine, container: &Container, answer: &Answer) {
    reloads(engine, container, answer).iter().for_each(Report::assert_nothing_lost);
    let (way, logs) = (steering(container), container.logs());
    assert_eq!(way, "steered", "{logs}");
    assert!(!logs.contains(" not steered, "), "{logs}");
}

/// Docker's own seccomp profile, under which the supervisor cannot copy a listener of the server.
#[test]
fn in_dockers_own_profile_nothing_is_lost() {
    let Some(engine) = Engine::running() else { return };
    let Some(container) = run_serve(engine, &[], &[]) else { return };
    nothing_is_lost(engine, &container, &Answer::CutoverPage);
}

#[test]
fn in_dockers_own_profile_nothing_of_a_stranger_is_lost() {
    let Some(engine) = Engine::running() else { return };
    let Some(container) = run_perl(engine, &[]) else { return };
    nothing_is_lost(engine, &container, &Answer::Pid);
}

/// At a close the kernel chooses which listener gets the waiting connections, and may choose one that accepts nothing:
/// so no connection may be waiting.
#[test]
fn the_sysctl_does_no_harm() {
    let Some(engine) = Engine::running() else { return };
    let Some(container) = run_perl(engine, SYSCTL) else { return };
    nothing_is_lost(engine, &container, &Answer::Pid);
}

#[test]
fn by_copies_nothing_is_lost() {
    let Some(engine) = Engine::running() else { return };
    let Some(container) = run_serve(engine, PTRACE, &[]) else { return };
    nothing_is_lost(engine, &container, &Answer::CutoverPage);
    let Some(container) = run_perl(engine, PTRACE) else { return };
    nothing_is_lost(engine, &container, &Answer::Pid);
}

/// Negative control: a program that is not steered and has no linger time, without and with the sysctl. The sysctl
/// reduces the loss, but not always to zero: a handshake that ends at the very moment of the close is still lost.
#[test]
fn without_steering_requests_are_lost_and_with_the_sysctl_fewer() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.perl() else { return };
    let words = [RUN, &["--linger", "0s", "--", "/server.pl", "8080"]].concat();
    let lost = |options: &[&str], way: &str| {
        // With a pause between two accepts each close finds connections in its queue, however fast the machine is.
        let slow = ["--env", "CUTOVER_STEERING=off", "--env", "ACCEPT_PAUSE=0.005"];
        let options = [PUBLISH, &slow, options].concat();
        let container = live(engine.run(&options, image, &words));
        let plan = Plan { answer: Answer::Pid, ..Plan::new([container.published(8080)], 2 * CLIENTS, Mode::Close) };
        let load = engine.load(plan);
        load.wait_answered(100, SOON);
        for generation in 2..=RELOADS + 1 {
            reload_to(&container, generation);
            load.wait_answered(100, SOON);
        }
        let report = load.stop();
        println!("{RELOADS} reloads, {way}: {report}");
        assert_eq!(steering(&container), way, "{}", container.logs());
        report.failures.total()
    };
    let (without, with) = (lost(&[], "best effort"), lost(SYSCTL, "migrating"));
    assert!(with < without, "{with} with the sysctl, {without} without");
}

/// A hardened container: no capabilities, and nothing writable but the folder of the control socket.
#[test]
fn hardened_nothing_is_lost() {
    let Some(engine) = Engine::running() else { return };
    let read_only = ["--read-only", "--tmpfs", "/run/cutover", "--user", "1234:1234"];
    let rights = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"];
    let Some(container) = run_serve(engine, &[&read_only[..], &rights].concat(), &[]) else { return };
    nothing_is_lost(engine, &container, &Answer::CutoverPage);
    engine.wait("one generation", SOON, || container.processes().len() == 2);
    let processes = container.processes();
    assert_eq!(processes.iter().map(|process| process.uid).collect::<Vec<_>>(), [1234, 1234]);
}
