//! The verbs work on a server in another language as on a server of the library.

use std::time::Duration;

use serde_json::Value;

use crate::support::http_get;
use crate::support::load::{Answer, Load, Mode, Plan};
use crate::support::programs::{Port, Program, Served, pid_in};
use crate::support::raw_control::Raw;
use crate::support::run::{Run, Running};
use crate::support::verb::Verb;

const SOON: Duration = Duration::from_secs(20);

struct Serving {
    port: Port,
    run: Running,
    _served: Served,
}

fn serving(args: &[&str]) -> Option<Serving> {
    let port = Port::free();
    let served = Program::Python.at(port.address)?;
    let run = Run::at(port.address, &served.command).args(args).ready();
    Some(Serving { port, run, _served: served })
}

impl Serving {
    fn verb(&self, verb: &str) -> Verb {
        self.run.verb(verb)
    }

    fn load(&self) -> Load {
        let load = Plan { answer: Answer::Pid, ..Plan::new([self.port.address], 4, Mode::Close) }.start();
        load.wait_answered(20, SOON);
        load
    }

    fn status(&self) -> Value {
        let said = self.verb("status").args(["--json"]).run().with(0);
        serde_json::from_str(&said.out).expect("JSON")
    }
}

#[test]
fn status_and_reload() {
    let Some(server) = serving(&[]) else { return };
    let first = server.run.live();
    let status = server.status();
    assert_eq!(status["name"], "it");
    assert_eq!(status["steering"], "steered");
    assert_eq!(status["generations"][0]["pid"], first);
    assert_eq!(status["generations"][0]["phase"], "serving");
    let said = server.verb("status").run().with(0);
    assert!(said.out.contains(&first.to_string()) && said.out.contains(&server.port.address.to_string()), "{said:?}");

    let load = server.load();
    let said = server.verb("reload").args(["--json"]).run().with(0);
    let lines: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let last = lines.last().expect("a line");
    assert_eq!((&last["outcome"], &last["generation"]), (&"done".into(), &2.into()), "{lines:?}");
    let live = server.run.live();
    assert_eq!(last["pid"], live);
    load.wait_answered(20, SOON);
    load.stop().assert_nothing_lost();
    assert_eq!(server.status()["reloads_done"], 1);
    let said = server.verb("reload").run().with(0);
    assert!(said.out.contains("generation 3 is live (pid "), "{said:?}");
}

#[test]
fn promote_and_roll_back() {
    let Some(server) = serving(&["--canary", "50%:1h", "--soak", "1h"]) else { return };
    let first = server.run.live();
    let load = server.load();
    let reload = server.verb("reload").begin();
    reload.wait_out("canary 50 % for 1 h\n");
    load.wait_answered(200, SOON);
    assert_eq!(load.generations().len(), 2, "both answer");
    server.verb("rollback").run().with(0);
    let ended = reload.end().with(75);
    assert!(ended.err.contains("generation 2 was rolled back on request; generation 1 serves on"), "{ended:?}");
    server.run.wait_until("green is gone", || server.run.members() == [first].into());

    let reload = server.verb("reload").begin();
    reload.wait_out("canary 50 % for 1 h\n");
    server.verb("promote").run().says("promoted\n");
    reload.wait_out("soaking for 1 h\n");
    let green = pid_in(&http_get(server.port.address, "/").expect("an answer")).expect("a pid");
    assert_ne!(green, first, "all of them");
    server.verb("rollback").run().with(0);
    reload.end().with(75);
    server.run.wait_until("green is gone", || server.run.members() == [first].into());

    let reload = server.verb("reload").begin();
    reload.wait_out("canary 50 % for 1 h\n");
    server.verb("promote").run().says("promoted\n");
    reload.wait_out("soaking for 1 h\n");
    server.verb("promote").run().says("promoted\n");
    let ended = reload.end().with(0);
    assert!(ended.out.contains("generation 4 is live (pid "), "{ended:?}");
    server.run.wait_reaped(first);
    load.wait_answered(20, SOON);
    load.stop().assert_nothing_lost();
}

/// Green dies in the canary: all users are on blue again.
#[test]
fn a_canary_that_dies() {
    let Some(server) = serving(&["--canary", "50%:1h"]) else { return };
    let first = server.run.live();
    let reload = server.verb("reload").begin();
    reload.wait_out("canary 50 % for 1 h\n");
    let members = server.run.members();
    let green = *members.iter().find(|pid| **pid != first).expect("green");
    server.run.signal(green, rustix::process::Signal::KILL);
    let ended = reload.end().with(75);
    let why = "generation 2 was killed by SIGKILL (9) in the canary; generation 1 serves on";
    assert!(ended.err.contains(why), "{ended:?}");
    for _ in 0..20 {
        assert_eq!(pid_in(&http_get(server.port.address, "/").expect("an answer")), Some(first));
    }
}

#[test]
fn stop() {
    let Some(server) = serving(&[]) else { return };
    let said = server.verb("stop").run().with(0);
    assert!(said.out.ends_with("instance it is stopped\n"), "{said:?}");
    assert_eq!(server.run.members(), [].into());
    assert_eq!(server.run.wait_exit(SOON).code(), Some(0));
    server.verb("status").run().fails(69, &["no instance with the name it runs"]);
}

#[test]
fn metrics() {
    let Some(server) = serving(&["--metrics", "127.0.0.1:0"]) else { return };
    let line = server.run.wait_log("offering metrics", SOON);
    let address = line.split_whitespace().find_map(|word| word.strip_prefix("address=")).expect("an address");
    let address = address.parse().expect("one");
    server.run.reload_to(2);
    let by_control = Raw::named(&server.run, "it").ask("GET", "/metrics");
    assert_eq!(by_control.status, 200);
    let by_port = http_get(address, "/metrics").expect("an answer");
    for text in [by_control.body, by_port] {
        assert!(text.contains("cutover_") && text.ends_with("# EOF\n"), "{text}");
        for line in ["cutover_generation 2", "cutover_reloads_total{outcome=\"done\"} 1"] {
            assert!(text.lines().any(|one| one == line), "no `{line}` in:\n{text}");
        }
    }
}
