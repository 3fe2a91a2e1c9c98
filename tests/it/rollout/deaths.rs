//! A generation is killed in the middle of a rollout: the other generation gets all connections at once. Only requests
//! on the connections of the killed generation may fail.

use std::time::{Duration, Instant};

use cutover::{Phase, Share};
use rustix::process::Signal;

use crate::support::app::{App, HOUR, Options};
use crate::support::control::{Panel, Watched};
use crate::support::load::{Load, Mode, Plan, Report};
use crate::support::process::Instance;

const SOON: Duration = Duration::from_secs(20);

/// A step at which a rollout is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Starting,
    Probing,
    Canary,
    Soak,
}

impl Step {
    fn app(self) -> App {
        let (canary, soak) = match self {
            Step::Starting | Step::Probing | Step::Canary => (vec![(Share::percent(50), HOUR)], Duration::ZERO),
            Step::Soak => (vec![], HOUR),
        };
        let probe = Some("/healthz".into());
        App::new(Options { probe, probe_timeout: Duration::from_secs(5), canary, soak, ..Options::default() })
    }

    #[track_caller]
    fn begin<'a>(self, app: &App, server: &Instance, panel: &'a Panel) -> Watched<'a> {
        match self {
            Step::Starting => app.next_hangs(),
            Step::Probing => app.healthz("hang"),
            Step::Canary | Step::Soak => {}
        }
        let mut reload = panel.reload();
        match self {
            Step::Starting => {
                reload.reaches(Phase::Starting);
                server.wait_log(" spawned generation=2 ", SOON);
            }
            Step::Probing => {
                reload.reaches(Phase::Probing);
                server.wait_log("asked for /healthz", SOON);
            }
            Step::Canary => reload.reaches_canary(50.0),
            Step::Soak => reload.reaches_soak(),
        }
        reload
    }

    fn words(self) -> &'static str {
        match self {
            Step::Starting => "before it was ready",
            Step::Probing => "while it was probed",
            Step::Canary => "in the canary",
            Step::Soak => "in the soak",
        }
    }
}

fn load(server: &Instance, mode: Mode) -> Load {
    let pause = match mode {
        Mode::Close => Duration::ZERO,
        Mode::KeepAlive | Mode::KeepAlive10 | Mode::Pipelined | Mode::Http2 => Duration::from_millis(5),
    };
    let load = Plan { pause, ..Plan::new([server.addr()], 16, mode) }.start();
    load.wait_answered(100, SOON);
    load
}

/// When this returns, no socket of the process is left: a pidfd reports the end of all its threads.
fn kill(server: &Instance, pid: u32) -> Instant {
    let began = Instant::now();
    server.signal(pid, Signal::KILL);
    server.wait_gone(pid, SOON);
    println!("it took {:?} to die", began.elapsed());
    Instant::now()
}

/// Makes connections now, and asserts that all of them come to this generation.
#[track_caller]
fn all_come_to(server: &Instance, generation: u64) -> Report {
    let load = load(server, Mode::Close);
    load.wait_answered(150, SOON);
    let report = load.stop();
    report.assert_nothing_lost();
    assert_eq!(Vec::from_iter(&report.generations), [&generation]);
    report
}

fn green_is_killed(step: Step) {
    let app = step.app();
    let server = app.start();
    let panel = Panel::of(&server);
    // These connections are on blue, and stay there.
    let stay = load(&server, Mode::KeepAlive);
    let come = load(&server, Mode::Close);
    let reload = step.begin(&app, &server, &panel);
    if matches!(step, Step::Canary | Step::Soak) {
        come.wait_generation(2, SOON);
        come.wait_answered(200, SOON);
    }
    let gone = kill(&server, panel.pid_of(2));
    all_come_to(&server, 1);
    reload.rolled_back_because(&["was killed by SIGKILL (9)", step.words()]);
    all_come_to(&server, 1);
    let stay = stay.stop();
    stay.assert_nothing_lost();
    assert_eq!(Vec::from_iter(&stay.generations), [&1]);
    let come = come.stop();
    println!("{step:?}: {} of {} failed with green: {:?}", come.failures.total(), come.connections, come.failures);
    match step {
        Step::Starting | Step::Probing => come.assert_nothing_lost(),
        Step::Canary | Step::Soak => come.assert_nothing_lost_after(gone),
    }
    recovers(&app, &server, &panel);
}

#[track_caller]
fn recovers(app: &App, server: &Instance, panel: &Panel) {
    app.healthz("200");
    app.next_starts();
    let mut reload = panel.reload();
    match app.options.soak.is_zero() {
        true => reload.reaches(Phase::Canary),
        false => reload.reaches_soak(),
    }
    panel.promote();
    let next = reload.done();
    all_come_to(server, next.into());
    assert!(!server.log_contains("not steered"), "{}", server.log());
}

#[test]
fn green_killed_while_it_starts() {
    green_is_killed(Step::Starting);
}

#[test]
fn green_killed_while_it_is_probed() {
    green_is_killed(Step::Probing);
}

#[test]
fn green_killed_in_the_canary() {
    green_is_killed(Step::Canary);
}

#[test]
fn green_killed_in_the_soak() {
    green_is_killed(Step::Soak);
}

/// If green has no connection, no request is lost at all.
#[test]
fn green_killed_with_nothing_in_hand() {
    for step in [Step::Canary, Step::Soak] {
        let app = step.app();
        let server = app.start();
        let panel = Panel::of(&server);
        let stay = load(&server, Mode::KeepAlive);
        let reload = step.begin(&app, &server, &panel);
        kill(&server, panel.pid_of(2));
        all_come_to(&server, 1);
        reload.rolled_back_because(&["was killed by SIGKILL (9)", step.words()]);
        stay.stop().assert_nothing_lost();
    }
}

/// The probe is repeated for as long as a rollback is possible. Green stays alive, so no request is lost at all.
#[test]
fn a_repeated_probe_that_fails_takes_everything_back() {
    for (step, again, does, why) in [
        (Step::Canary, 2, "503", "it answered 503 Service Unavailable"),
        (Step::Soak, 0, "503", "it answered 503 Service Unavailable"),
        (Step::Soak, 1, "hang", "no answer in"),
    ] {
        let mut app = step.app();
        app.options.probe_timeout = Duration::from_millis(500);
        let server = app.start();
        let panel = Panel::of(&server);
        let come = load(&server, Mode::Close);
        let reload = step.begin(&app, &server, &panel);
        let stay = load(&server, Mode::KeepAlive);
        come.wait_generation(2, SOON);
        for _ in 0..again {
            let mark = server.mark();
            server.wait_log_after(mark, "asked for /healthz", SOON);
        }
        app.healthz(does);
        reload.rolled_back_because(&["did not pass the probe http://", "/healthz in 500ms", why]);
        all_come_to(&server, 1);
        for load in [come, stay] {
            load.stop().assert_nothing_lost();
        }
        recovers(&app, &server, &panel);
    }
}

#[test]
fn green_dies_by_itself() {
    for step in [Step::Canary, Step::Soak] {
        let app = step.app();
        let server = app.start();
        let panel = Panel::of(&server);
        let come = load(&server, Mode::Close);
        let reload = step.begin(&app, &server, &panel);
        let green = panel.pid_of(2);
        come.wait_generation(2, SOON);
        app.healthz("die");
        server.wait_gone(green, SOON);
        let gone = Instant::now();
        reload.rolled_back_because(&["was killed by SIGABRT (6)", step.words()]);
        all_come_to(&server, 1);
        come.stop().assert_nothing_lost_after(gone);
        recovers(&app, &server, &panel);
    }
}

/// Blue is killed: green, which is ready, becomes the live generation and takes over all that belongs to the live one.
fn blue_is_killed(step: Step) {
    let app = step.app();
    let server = app.start();
    let (panel, blue) = (Panel::of(&server), server.first_pid());
    let come = load(&server, Mode::Close);
    let reload = step.begin(&app, &server, &panel);
    let green = panel.pid_of(2);
    come.wait_generation(2, SOON);
    if step == Step::Soak {
        // Blue has finished the connections from before the soak.
        while panel.connections_of(1) > 0 {
            come.wait_answered(10, SOON);
        }
    }
    let gone = kill(&server, blue);
    drop(reload);
    all_come_to(&server, 2);
    server.wait_log("live generation=2", SOON);
    let ready = server.wait_notification("generation 2 serves", SOON);
    assert_eq!((ready.pid, ready.value("READY")), (green, Some("1")));
    let report = come.stop();
    println!("{step:?}: {} of {} failed with blue: {:?}", report.failures.total(), report.connections, report.failures);
    match step {
        Step::Soak => report.assert_nothing_lost(),
        Step::Starting | Step::Probing | Step::Canary => report.assert_nothing_lost_after(gone),
    }
    let status = panel.status();
    assert_eq!(status.generations.len(), 1, "{status:?}");
    assert_eq!(status.generations[0].phase, Phase::Serving);
    recovers(&app, &server, &panel);
}

#[test]
fn blue_killed_in_the_canary() {
    blue_is_killed(Step::Canary);
}

#[test]
fn blue_killed_in_the_soak() {
    blue_is_killed(Step::Soak);
}
