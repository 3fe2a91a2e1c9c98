//! `cutover reload`: the output gives the steps, and the exit code gives the outcome.

use std::fs;
use std::time::Duration;

use cutover::control::Progress;
use cutover::{Outcome, Phase};
use rustix::process::Signal;

use crate::support::deployed::{Deployed, GARBAGE, GREEN};
use crate::support::http_get;
use crate::support::load::{Load, Mode, Plan};
use crate::support::process::{Instance, Start};
use crate::support::status::{is_serving, status};
use crate::support::verb::{Ended, Verb};

const SOON: Duration = Duration::from_secs(10);

fn load(server: &Instance) -> Load {
    let load = Plan::new([server.addr()], 8, Mode::Close).start();
    load.wait_answered(10, SOON);
    load
}

/// The lines of a successful reload, and the last line apart.
#[track_caller]
fn lines(ended: &Ended) -> (Vec<&str>, &str) {
    let mut lines: Vec<&str> = ended.out.lines().collect();
    let last = lines.pop().expect("a last line");
    assert_eq!(ended.err, "", "{ended:?}");
    (lines, last)
}

#[test]
fn when_it_ends_the_next_generation_serves() {
    let server = Start::serve().ready();
    let load = load(&server);
    for generation in 2..=6 {
        let ended = Verb::of("reload", &server).run().with(0);
        // The status right after the verb must show the new generation.
        let pid = is_serving(&status(&server), generation);
        let (steps, last) = lines(&ended);
        assert_eq!(steps, [format!("starting generation {generation}"), "cut over".into()]);
        assert!(last.starts_with(&format!("generation {generation} is live (pid {pid}) after ")), "{last}");
        assert!(http_get(server.addr(), "/").expect("an answer").contains(&format!("generation {generation}\n")));
    }
    load.stop().assert_nothing_lost();
}

#[test]
fn each_step_is_a_line() {
    let server =
        Start::serve().args(["--probe", "/", "--canary", "5%:300ms,50%:300ms,90%:1s", "--soak", "300ms"]).ready();
    let load = load(&server);
    let ended = Verb::of("reload", &server).run().with(0);
    let (steps, last) = lines(&ended);
    assert_eq!(
        steps,
        [
            "starting generation 2",
            "probing",
            "canary 5 % for 300 ms",
            "canary 50 % for 300 ms",
            "canary 90 % for 1 s",
            "cut over",
            "soaking for 300 ms",
        ]
    );
    assert!(last.starts_with("generation 2 is live (pid ") && last.ends_with(" s"), "{last}");
    load.stop().assert_nothing_lost();
}

/// The event of each line, in a few words.
fn events(out: &str) -> Vec<String> {
    let of = |line: &str| match serde_json::from_str::<Progress>(line) {
        Ok(Progress::Phase { phase, .. }) => phase.to_string(),
        Ok(Progress::Canary { share, .. }) => format!("canary of {share}"),
        Ok(Progress::Soak { .. }) => "soak".into(),
        Ok(Progress::Draining { connections, .. }) => format!("draining {connections}"),
        Ok(Progress::Outcome(Outcome::Done { .. })) => "done".into(),
        Ok(Progress::Outcome(Outcome::RolledBack { .. })) => "rolled back".into(),
        Ok(Progress::Gone) => "gone!".into(),
        other => panic!("{line}: {other:?}"),
    };
    out.lines().map(of).collect()
}

#[test]
fn as_json_each_line_is_an_object_and_there_is_nothing_else() {
    let server = Start::serve().args(["--probe", "/", "--canary", "5%:100ms", "--soak", "100ms"]).ready();
    let ended = Verb::of("reload", &server).args(["--json", "--drain"]).run().with(0);
    assert_eq!(ended.err, "");
    let steps = ["preflight", "starting", "verifying", "probing", "canary", "canary of 5 %", "cutting over"];
    let end = ["soaking", "soak", "retiring", "done", "draining", "gone!"];
    assert_eq!(events(&ended.out), [&steps[..], &end].concat());
    let ended = Verb::of("reload", &server).args(["--json"]).run().with(0);
    assert_eq!(events(&ended.out).last().map(String::as_str), Some("done"));
}

/// A next generation that fails: the verb gives the reason, and the old generation serves on without a lost request.
#[track_caller]
fn fails(part: &str, options: &[&str], put: impl FnOnce(&Deployed), words: &[&str]) {
    let deployed = Deployed::new();
    let server = deployed.start(part).args(options).ready();
    let load = load(&server);
    put(&deployed);
    let ended = Verb::of("reload", &server).run().with(75);
    assert_eq!(ended.out, "starting generation 2\n", "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    for word in ["reload failed: generation 2 ", "; generation 1 serves on\n"].iter().chain(words) {
        assert!(ended.err.contains(word), "`{word}` is not in: {ended:?}");
    }
    assert_eq!(is_serving(&status(&server), 1), server.first_pid());
    let json = Verb::of("reload", &server).args(["--json"]).run().with(75);
    assert_eq!(events(&json.out).last().map(String::as_str), Some("rolled back"), "{json:?}");
    assert!(json.err.contains("generation 1 serves on"), "{json:?}");
    deployed.put_real();
    Verb::of("reload", &server).run().with(0);
    is_serving(&status(&server), 4);
    load.stop().assert_nothing_lost();
}

#[test]
fn one_that_is_missing() {
    fails("", &[], Deployed::remove, &["cannot be found"]);
}

#[test]
fn one_that_is_no_program() {
    fails("", &[], |deployed| deployed.put(GARBAGE), &["cannot be spawned", "Exec format error"]);
}

#[test]
fn one_that_exits() {
    fails("exit-1", &[], |deployed| deployed.put(GREEN), &["exited with status 1 before it was ready"]);
}

#[test]
fn one_that_hangs() {
    let options = ["--ready-timeout", "300ms"];
    fails("hang", &options, |deployed| deployed.put(GREEN), &["did not become ready in 300ms"]);
}

#[test]
fn one_at_a_time_and_who_runs_it_is_said() {
    let deployed = Deployed::new();
    let server = deployed.start("hang").ready();
    deployed.put(GREEN);
    let first = Verb::of("reload", &server).begin();
    first.wait_out("starting generation 2");
    let who = format!("the rollout of generation 2 is under way in generation 1 (pid {})", server.first_pid());
    Verb::of("reload", &server).run().fails(75, &[&who]);
    Verb::of("rollback", &server).run().says("rolled back\n");
    let first = first.end().with(75);
    assert_eq!(first.err, "reload failed: generation 2 was rolled back on request; generation 1 serves on\n");
}

#[test]
fn past_the_timeout_it_is_rolled_back() {
    let deployed = Deployed::new();
    let server = deployed.start("hang").args(["--ready-timeout", "1h"]).ready();
    let load = load(&server);
    deployed.put(GREEN);
    let ended = Verb::of("reload", &server).args(["--timeout", "500ms"]).run().with(75);
    let reason = "reload failed: generation 2 was rolled back on request; generation 1 serves on";
    assert_eq!(ended.err, format!("no outcome after 500ms: asked for a rollback\n{reason}\n"));
    assert_eq!(is_serving(&status(&server), 1), server.first_pid());
    assert_eq!(server.pids(), [server.first_pid()], "the next generation is still there");
    deployed.put_real();
    let ended = Verb::of("reload", &server).args(["--timeout", "20s"]).run().with(0);
    assert_eq!(ended.err, "");
    is_serving(&status(&server), 3);
    load.stop().assert_nothing_lost();
}

#[test]
fn past_the_timeout_a_canary_is_taken_back() {
    let server = Start::serve().args(["--canary", "50%:1h"]).ready();
    let load = load(&server);
    let ended = Verb::of("reload", &server).args(["--timeout", "3s"]).run().with(75);
    assert!(ended.err.ends_with("generation 2 was rolled back on request; generation 1 serves on\n"), "{ended:?}");
    assert_eq!(is_serving(&status(&server), 1), server.first_pid());
    load.wait_generation(2, SOON);
    load.stop().assert_nothing_lost();
}

/// Green was ready: green takes over by itself, and the verb finds green.
#[test]
fn the_old_process_dies_in_the_canary() {
    let server = Start::serve().args(["--canary", "5%:1h"]).ready();
    let reload = Verb::of("reload", &server).begin();
    reload.wait_out("canary 5 % for 1 h");
    server.signal(server.first_pid(), Signal::KILL);
    let ended = reload.end().with(0);
    let pid = is_serving(&status(&server), 2);
    assert!(ended.out.ends_with(&format!("generation 2 is live (pid {pid})\n")), "{ended:?}");
    assert!(ended.err.contains(&format!("process {}", server.first_pid())), "{ended:?}");
}

#[test]
fn the_old_process_dies_and_no_other_becomes_live() {
    let deployed = Deployed::new();
    let server = deployed.start("hang").ready();
    deployed.put(GREEN);
    let reload = Verb::of("reload", &server).begin();
    server.wait_log(" spawned generation=2 ", SOON);
    server.signal(server.first_pid(), Signal::KILL);
    let ended = reload.end().with(69);
    assert!(ended.err.ends_with("no newer generation is live\n"), "{ended:?}");
}

/// The next generation goes on starting, and takes over when it is ready: the verb waits until then.
#[test]
fn the_old_process_dies_and_a_slow_one_becomes_live() {
    let deployed = Deployed::new();
    let server = deployed.start("slow").ready();
    deployed.put(GREEN);
    let reload = Verb::of("reload", &server).begin();
    server.wait_log(" spawned generation=2 ", SOON);
    server.signal(server.first_pid(), Signal::KILL);
    reload.wait_err("looking which generation is live");
    fs::write(deployed.out(), "go on").expect("green may go on");
    let ended = reload.end().with(0);
    let pid = is_serving(&status(&server), 2);
    assert!(ended.out.ends_with(&format!("generation 2 is live (pid {pid})\n")), "{ended:?}");
    assert_eq!(status(&server).generations[0].phase, Phase::Serving);
}
