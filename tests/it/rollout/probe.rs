//! No user reaches the next generation before that generation has passed the probe; if it does not pass, no user ever
//! does.

use std::net::SocketAddr;
use std::time::Duration;

use cutover::Phase;

use crate::support::app::{App, Options};
use crate::support::control::Panel;
use crate::support::load::{Load, Mode, Plan};
use crate::support::process::Instance;

const SOON: Duration = Duration::from_secs(20);
/// Time limit for thousands of connections, on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// The number of connections during the probe: enough to show a share of one percent.
const MANY: u64 = 2000;

fn probing(target: &str, timeout: Duration) -> Options {
    Options { probe: Some(target.into()), probe_timeout: timeout, ..Options::default() }
}

fn load(targets: impl Into<Vec<SocketAddr>>) -> Load {
    let pause = Duration::from_millis(2);
    let load = Plan { pause, ..Plan::new(targets, 16, Mode::Close) }.start();
    load.wait_answered(100, SOON);
    load
}

/// The probe gets 503 while some thousand users connect, and 200 after that.
fn users_stay_on_blue_until_it_passes(listen: &str, hosts: &[&str]) {
    let app = App::new(Options { listen: vec![listen.into()], ..probing("/healthz", LONG) });
    app.healthz("503");
    let server = app.start();
    let (panel, blue) = (Panel::of(&server), server.main_pid());
    let port = server.addr().port();
    let targets: Vec<SocketAddr> =
        hosts.iter().map(|host| format!("{host}:{port}").parse().expect("an address")).collect();
    let before = load(&*targets);
    let mut reload = panel.reload();
    reload.reaches(Phase::Probing);
    let during = Plan::new(&*targets, 16, Mode::Close).start();
    server.wait_log("asked for /healthz", SOON);
    during.wait_answered(MANY, LONG);
    let asked = server.count_log("asked for /healthz");
    let during = during.stop();
    during.assert_nothing_lost();
    assert_eq!(Vec::from_iter(&during.generations), [&1], "users were on green before it passed");
    assert_eq!(Vec::from_iter(&during.pids), [&blue]);
    assert!(asked > 1, "it was asked once only");
    assert_eq!(panel.status().rollout.expect("a rollout").phase, Phase::Probing);
    app.healthz("200");
    assert_eq!(reload.done(), 2);
    before.wait_generation(2, SOON);
    before.stop().assert_nothing_lost();
    server.wait_log("reload done", SOON);
    let by_blue = server.log().lines().any(|line| line.contains("asked for /healthz generation=1"));
    assert!(!by_blue, "the probe came to blue: {}", server.log());
}

#[test]
fn ipv4() {
    users_stay_on_blue_until_it_passes("127.0.0.1:0", &["127.0.0.1"]);
}

#[test]
fn ipv6() {
    users_stay_on_blue_until_it_passes("[::1]:0", &["[::1]"]);
}

#[test]
fn dual_stack() {
    users_stay_on_blue_until_it_passes("[::]:0", &["127.0.0.1", "[::1]"]);
}

/// Asserts that the probe fails with these words as the reason, that green is gone, and that blue serves on.
#[track_caller]
fn fails(app: &App, words: &[&str]) {
    let server = app.start();
    let (panel, load) = (Panel::of(&server), load([server.addr()]));
    let address = server.addr();
    let mut reload = panel.reload();
    reload.reaches(Phase::Probing);
    let green = panel.pid_of(2);
    let mut all = vec![format!("http://{address}/healthz")];
    all.extend(words.iter().map(|word| (*word).to_owned()));
    reload.rolled_back_because(&all.iter().map(String::as_str).collect::<Vec<_>>());
    server.wait_gone(green, SOON);
    load.wait_answered(200, SOON);
    let report = load.stop();
    report.assert_nothing_lost();
    assert_eq!(Vec::from_iter(&report.generations), [&1]);
    assert_eq!(server.pids(), [server.first_pid()]);
    // The failure depends on green's answer only: with another answer the next reload works.
    app.healthz("200");
    assert_eq!(panel.reload().done(), 3);
}

#[test]
fn a_status_that_is_no_success() {
    for (says, shown) in [("503", "503 Service Unavailable"), ("404", "404 Not Found")] {
        let app = App::new(probing("/healthz", Duration::from_millis(500)));
        app.healthz(says);
        fails(&app, &["did not pass the probe", &format!("it answered {shown}"), "in 500ms"]);
    }
}

#[test]
fn no_answer_at_all() {
    let app = App::new(probing("/healthz", Duration::from_millis(500)));
    app.healthz("hang");
    fails(&app, &["did not pass the probe", "no answer in 500ms"]);
}

#[test]
fn a_redirection_passes() {
    let app = App::new(probing("/healthz", SOON));
    app.healthz("302");
    let server = app.start();
    assert_eq!(Panel::of(&server).reload().done(), 2);
    assert_eq!(asked_with(&server, "302"), 1);
}

/// The probe request kills green.
#[test]
fn a_death_while_it_is_probed() {
    let app = App::new(probing("/healthz", SOON));
    app.healthz("die");
    let server = app.start();
    let (panel, load) = (Panel::of(&server), load([server.addr()]));
    panel.reload().rolled_back_because(&["was killed by SIGABRT (6) while it was probed"]);
    load.wait_answered(200, SOON);
    load.stop().assert_nothing_lost();
}

/// TLS listeners, detected by the probe or declared by its target. Users by TLS stay on blue until the probe passes.
#[test]
fn tls() {
    let plain_and_tls = || vec!["127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned()];
    for (target, listen, tls) in [
        ("/healthz", vec!["127.0.0.1:0".to_owned()], vec![0]),
        ("https:/healthz", vec!["127.0.0.1:0".to_owned()], vec![0]),
        ("https://app.test/healthz", vec!["127.0.0.1:0".to_owned()], vec![0]),
        ("/healthz", plain_and_tls(), vec![1]),
        ("/healthz", plain_and_tls(), vec![0]),
    ] {
        let count = listen.len();
        let app = App::new(Options { listen, tls: tls.clone(), ..probing(target, SOON) });
        app.healthz("503");
        let server = app.start();
        let panel = Panel::of(&server);
        let mut reload = panel.reload();
        reload.reaches(Phase::Probing);
        server.wait_log("asked for /healthz generation=2", SOON);
        for _ in 0..40 {
            assert!(app.page_by_tls(server.addrs()[tls[0]]).contains("generation 1"), "a user was on green: {target}");
        }
        app.healthz("200");
        assert_eq!(reload.done(), 2);
        let passed = asked_with(&server, "200");
        assert_eq!(passed, count, "one answer for each address: {target}");
        assert!(app.page_by_tls(server.addrs()[tls[0]]).contains("generation 2"));
    }
}

/// A plain listener that is declared as TLS fails the probe, whatever its answer would be.
#[test]
fn tls_that_is_none() {
    let app = App::new(probing("https:/healthz", Duration::from_millis(500)));
    let server = app.start();
    let panel = Panel::of(&server);
    panel.reload().rolled_back_because(&["did not pass the probe https://", "it speaks no TLS"]);
    assert_eq!(server.pids(), [server.first_pid()]);
}

#[test]
fn tls_that_says_no() {
    let app = App::new(Options { tls: vec![0], ..probing("/healthz", Duration::from_millis(700)) });
    app.healthz("503");
    let server = app.start();
    let panel = Panel::of(&server);
    panel.reload().rolled_back_because(&["did not pass the probe https://", "it answered 503 Service Unavailable"]);
    assert!(app.page_by_tls(server.addr()).contains("generation 1"));
}

/// The number of probes that got this answer, in a rollout that is done.
fn asked_with(server: &Instance, does: &str) -> usize {
    server.wait_log("reload done", SOON);
    server.count_log(&format!("asked for /healthz generation=2 does=\"{does}\""))
}

/// Each address is probed, and one failure is enough.
#[test]
fn each_of_several_addresses() {
    let listen = vec!["127.0.0.1:0".into(), "[::1]:0".into(), "127.0.0.1:0".into()];
    let app = App::new(Options { listen, ..probing("/healthz", SOON) });
    let server = app.start();
    let load = load(server.addrs());
    assert_eq!(Panel::of(&server).reload().done(), 2);
    assert_eq!(asked_with(&server, "200"), 3);
    load.wait_generation(2, SOON);
    load.stop().assert_nothing_lost();
}
