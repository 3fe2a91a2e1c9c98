//! `cutover promote` and `cutover rollback`: forward and back without a lost request, and the reason where that is not
//! possible.

use std::time::Duration;

use cutover::Phase;

use crate::support::deployed::{Deployed, GREEN};
use crate::support::http_get;
use crate::support::load::{Load, Mode, Plan};
use crate::support::process::{Instance, Start};
use crate::support::status::{is_serving, status, wait_phase, wait_status};
use crate::support::verb::{Running, Verb};

const SOON: Duration = Duration::from_secs(10);
const BLUE_GREEN: [&str; 4] = ["--canary", "50%:1h", "--soak", "1h"];

/// Begins a reload under load, after `deploy`.
fn begin(start: Start, deploy: impl FnOnce()) -> (Instance, Load, Running) {
    let server = start.args(BLUE_GREEN).ready();
    deploy();
    let load = Plan::new([server.addr()], 8, Mode::Close).start();
    load.wait_answered(10, SOON);
    let reload = Verb::of("reload", &server).begin();
    (server, load, reload)
}

fn to_the_soak(server: &Instance, reload: &Running) {
    reload.wait_out("canary 50 % for 1 h\n");
    Verb::of("promote", server).run().says("promoted\n");
    reload.wait_out("soaking for 1 h\n");
}

#[test]
fn promotions_end_the_canary_and_the_soak() {
    let (server, load, reload) = begin(Start::serve(), || {});
    to_the_soak(&server, &reload);
    wait_phase(&server, Phase::Soaking);
    load.wait_generation(2, SOON);
    Verb::of("promote", &server).run().says("promoted\n");
    let ended = reload.end().with(0);
    assert!(ended.out.contains("generation 2 is live (pid "), "{ended:?}");
    is_serving(&status(&server), 2);
    load.stop().assert_nothing_lost();
}

/// Asserts that blue serves alone again, and that no request was lost.
#[track_caller]
fn is_back(server: &Instance, load: Load, reload: Running) {
    let ended = reload.end().with(75);
    assert!(
        ended.err.ends_with("reload failed: generation 2 was rolled back on request; generation 1 serves on\n"),
        "{ended:?}"
    );
    assert_eq!(is_serving(&status(server), 1), server.first_pid());
    for _ in 0..20 {
        assert!(http_get(server.addr(), "/").expect("an answer").contains("generation 1\n"));
    }
    wait_status(server, "green gone", |status| status.generations.len() == 1);
    load.stop().assert_nothing_lost();
}

#[test]
fn a_rollback_while_the_next_one_starts() {
    let deployed = Deployed::new();
    let (server, load, reload) = begin(deployed.start("hang"), || deployed.put(GREEN));
    server.wait_log(" spawned generation=2 ", SOON);
    Verb::of("rollback", &server).run().says("rolled back\n");
    is_back(&server, load, reload);
}

#[test]
fn a_rollback_from_the_canary() {
    let (server, load, reload) = begin(Start::serve(), || {});
    reload.wait_out("canary 50 % for 1 h\n");
    load.wait_generation(2, SOON);
    Verb::of("rollback", &server).run().says("rolled back\n");
    is_back(&server, load, reload);
}

#[test]
fn a_rollback_from_the_soak() {
    let (server, load, reload) = begin(Start::serve(), || {});
    to_the_soak(&server, &reload);
    load.wait_generation(2, SOON);
    Verb::of("rollback", &server).run().says("rolled back\n");
    is_back(&server, load, reload);
}

#[test]
fn at_the_wrong_time_the_answer_is_why() {
    let deployed = Deployed::new();
    let server = deployed.start("hang").ready();
    let pid = server.first_pid();
    let idle = format!("no rollout is under way: generation 1 (pid {pid}) serves\n");
    Verb::of("promote", &server).run().fails(75, &[&idle]);
    Verb::of("rollback", &server).run().fails(75, &[&idle]);
    deployed.put(GREEN);
    let reload = Verb::of("reload", &server).begin();
    wait_phase(&server, Phase::Starting);
    let starting = "the rollout of generation 2 is starting: only a canary or a soak can be promoted";
    Verb::of("promote", &server).run().fails(75, &[starting]);
    Verb::of("rollback", &server).run().says("rolled back\n");
    reload.end().with(75);
    deployed.put_real();
    Verb::of("reload", &server).run().with(0);
    let pid = is_serving(&status(&server), 3);
    let idle = format!("no rollout is under way: generation 3 (pid {pid}) serves");
    Verb::of("rollback", &server).run().fails(75, &[&idle, "cannot come back"]);
    Verb::of("promote", &server).run().fails(75, &[&idle]);
}
