//! An application receives the events of a rollout, and controls the rollout from within.

use std::time::Duration;

use cutover::Share;

use crate::support::app::{App, HOUR, Options, Reaction};
use crate::support::control::Panel;
use crate::support::load::{Mode, Plan};

const SOON: Duration = Duration::from_secs(20);

fn with(on_canary: Option<Reaction>, on_soak: Option<Reaction>) -> App {
    App::new(Options { canary: vec![(Share::percent(5), HOUR)], soak: HOUR, on_canary, on_soak, ..Options::default() })
}

/// Asserts that the application has logged these events of the rollout, in this order.
#[track_caller]
fn led_from_within(app: &App, words: &[&str]) {
    let server = app.start();
    let load = Plan::new([server.addr()], 16, Mode::Close).start();
    load.wait_answered(50, SOON);
    server.hup();
    server.wait_log(words.last().expect("some"), SOON);
    load.wait_answered(300, SOON);
    load.stop().assert_nothing_lost();
    let log = server.log();
    let mut events = log.lines().filter(|line| line.contains(" event "));
    for word in words {
        assert!(events.any(|event| event.contains(word)), "no `{word}` at its place in: {log}");
    }
}

const CANARY: &str = "event Canary { share: Share(500), time: 3600s }";
const SOAK: &str = "event Soak { time: 3600s }";

#[test]
fn promoted_twice() {
    let app = with(Some(Reaction::Promote), Some(Reaction::Promote));
    let done = "event Reload(Done { generation: Generation(2)";
    led_from_within(&app, &["to: Starting", CANARY, "to: CuttingOver", SOAK, "to: Retiring", done]);
}

#[test]
fn taken_back_from_the_canary() {
    let app = with(Some(Reaction::Rollback), None);
    let back = "event Reload(RolledBack { generation: Generation(2), reason: \"was rolled back on request\"";
    led_from_within(&app, &["to: Starting", CANARY, "to: Serving", back]);
}

#[test]
fn taken_back_from_the_soak() {
    let app = with(Some(Reaction::Promote), Some(Reaction::Rollback));
    let back = "event Reload(RolledBack { generation: Generation(2), reason: \"was rolled back on request\"";
    led_from_within(&app, &[CANARY, SOAK, "to: Serving", back]);
}

/// A request at the wrong time is refused, and the refusal is an event as well.
#[test]
fn what_is_refused_is_told() {
    let app = with(None, None);
    let server = app.start();
    let panel = Panel::of(&server);
    let mut reload = panel.reload();
    reload.reaches_canary(5.0);
    server.hup();
    server.wait_log("event Refused(\"the rollout of generation 2 is under way in generation 1", SOON);
    panel.rollback();
    reload.rolled_back();
}
