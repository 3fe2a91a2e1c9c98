//! The control socket: each request is answered, whether the server can act on it at that time or not.

mod abuse;
mod handover;
mod metrics;
mod names;
mod openapi;
mod strangers;

use std::collections::BTreeSet;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::deployed::{Deployed, GARBAGE, GREEN};
use crate::support::http_get;
use crate::support::process::Start;
use crate::support::raw_control::{Raw, read_answer, request_and_keep};

const SOON: Duration = Duration::from_secs(10);

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap_or_else(|| panic!("no object: {object}")).keys().map(String::as_str).collect()
}

/// A kept-alive connection whose first request was answered.
fn kept(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(SOON)).expect("set");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    let (mut answer, mut part) = (Vec::new(), [0; 1024]);
    while !String::from_utf8_lossy(&answer).contains("generation ") {
        let count = stream.read(&mut part).expect("an answer");
        assert_ne!(count, 0, "the end");
        answer.extend(&part[..count]);
    }
    stream
}

#[test]
fn every_request_that_is_none_is_refused_and_changes_nothing() {
    let server = Start::serve().ready();
    let control = Raw::of(&server);
    for path in ["/", "/v1", "/v1/", "/v1/status/", "/v2/status", "/v1/reload/now", "/metrics/", "*"] {
        control.ask("GET", path).refuses(404, &[path]);
        control.ask("POST", path).refuses(404, &[path]);
    }
    for (path, allowed, others) in [
        ("/v1/status", "GET", ["POST", "DELETE", "OPTIONS"]),
        ("/metrics", "GET", ["POST", "PUT", "SING"]),
        ("/v1/reload", "POST", ["GET", "PUT", "OPTIONS"]),
        ("/v1/promote", "POST", ["GET", "PATCH", "DELETE"]),
        ("/v1/rollback", "POST", ["GET", "PUT", "DELETE"]),
        ("/v1/stop", "POST", ["GET", "DELETE", "TRACE"]),
    ] {
        for method in others {
            let answer = control.ask(method, path);
            answer.refuses(405, &[path, allowed]);
            assert_eq!(answer.header("allow"), Some(allowed));
        }
    }
    for query in ["drain=perhaps", "drain=true&more=1", "sing", "drain=TRUE"] {
        control.ask("POST", &format!("/v1/reload?{query}")).refuses(400, &[query, "drain=true"]);
    }
    let who = format!("generation 1 (pid {}) serves", server.first_pid());
    control.ask("POST", "/v1/promote").refuses(409, &["no rollout is under way", &who]);
    control.ask("POST", "/v1/rollback").refuses(409, &["no rollout is under way", &who]);
    let status = control.status();
    assert_eq!((&status["rollout"], &status["last_reload"]), (&Value::Null, &Value::Null));
    assert_eq!((&status["reloads_done"], &status["reloads_rolled_back"]), (&json!(0), &json!(0)));
    assert_eq!(server.pids(), [server.first_pid()]);
}

#[test]
fn the_status_is_as_it_is_documented() {
    let deployed = Deployed::new();
    let server = deployed.start("slow").ready();
    let (control, address, first) = (Raw::of(&server), server.addr(), server.first_pid());
    let _kept = kept(address);
    let status = control.status();
    let of_status = "name version addresses steering rollout generations last_reload reloads_done reloads_rolled_back";
    assert_eq!(keys(&status), of_status.split(' ').collect());
    assert_eq!(status["name"], address.to_string());
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["addresses"], json!([address]));
    assert_eq!(status["steering"], "steered");
    let own = &status["generations"][0];
    assert_eq!(keys(own), "generation pid phase age share connections kinds".split(' ').collect());
    assert_eq!((&own["generation"], &own["pid"], &own["phase"]), (&json!(1), &json!(first), &json!("serving")));
    assert_eq!((&own["share"], &own["connections"]), (&json!(100.0), &json!(1)));
    assert_eq!(own["kinds"], json!({ "fresh": 0, "http1": 1, "http2": 0, "upgraded": 0, "tcp": 0 }));
    assert!(own["age"].as_f64().is_some_and(|age| (0.0..60.0).contains(&age)), "{own}");

    deployed.put(GREEN);
    let following = control.reload();
    server.wait_log(" spawned generation=2 ", SOON);
    let status = control.status();
    let rollout = &status["rollout"];
    assert_eq!(keys(rollout), "generation phase share elapsed left".split(' ').collect());
    assert_eq!((&rollout["generation"], &rollout["phase"]), (&json!(2), &json!("starting")));
    assert_eq!(rollout["share"], 0.0);
    assert!(rollout["elapsed"].as_f64().is_some_and(|elapsed| (0.0..20.0).contains(&elapsed)), "{rollout}");
    assert!(rollout["left"].as_f64().is_some_and(|left| (1.0..30.0).contains(&left)), "{rollout}");
    let (green, blue) = (&status["generations"][0], &status["generations"][1]);
    assert_eq!(status["generations"].as_array().map(Vec::len), Some(2), "the newest first: {status}");
    assert_eq!((&green["generation"], &green["phase"], &green["share"]), (&json!(2), &json!("starting"), &json!(0.0)));
    assert_eq!((&blue["generation"], &blue["phase"], &blue["share"]), (&json!(1), &json!("starting"), &json!(100.0)));

    std::fs::write(deployed.out(), "go on").expect("green may go on");
    let outcome = following.done();
    let status = control.status();
    assert_eq!(status["generations"][0]["pid"], outcome["pid"]);
    assert_eq!(status["reloads_done"], 1);
    let last = &status["last_reload"];
    assert_eq!(keys(last), "outcome generation pid took at".split(' ').collect());
    assert_eq!((&last["outcome"], &last["pid"], &last["took"]), (&json!("done"), &outcome["pid"], &outcome["took"]));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(last["at"].as_u64().is_some_and(|at| (now - 30..=now).contains(&at)), "{last}");
}

#[test]
fn a_reload_is_told_phase_by_phase_to_the_outcome_and_with_drain_to_the_end() {
    let server = Start::serve().args(["--probe", "/", "--canary", "50%:50ms", "--soak", "50ms"]).ready();
    let control = Raw::of(&server);
    let phases = "preflight starting verifying probing canary cutting_over soaking retiring";
    for (generation, target) in [(2, "/v1/reload"), (3, "/v1/reload?drain=false"), (4, "/v1/reload?drain=true")] {
        let blue = control.status()["generations"][0]["pid"].as_u64().expect("a pid");
        // The old generation has a connection to drain, which the test closes.
        let held = (generation == 4).then(|| kept(server.addr()));
        let mut following = control.follow(target);
        let mut lines = Vec::new();
        let outcome = following.until(|line| {
            lines.push(line.clone());
            line["event"] == "outcome"
        });
        let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
        let told: Vec<&str> = of("phase").iter().filter_map(|line| line["phase"].as_str()).collect();
        // Blue may start to drain before the outcome is reported.
        let begin: Vec<&str> = told.iter().copied().filter(|phase| *phase != "draining").collect();
        assert_eq!(begin.join(" "), phases, "{lines:?}");
        let elapsed: Vec<f64> = of("phase").iter().filter_map(|line| line["elapsed"].as_f64()).collect();
        assert!(elapsed.len() == told.len() && elapsed.is_sorted(), "{elapsed:?}");
        assert!(of("phase").iter().all(|line| line["generation"] == generation));
        assert_eq!(of("canary"), [&json!({ "event": "canary", "share": 50.0, "seconds": 0.05 })]);
        assert_eq!(of("soak"), [&json!({ "event": "soak", "seconds": 0.05 })]);
        assert_eq!(keys(&outcome), "event outcome generation pid took".split(' ').collect());
        assert_eq!((&outcome["outcome"], &outcome["generation"]), (&json!("done"), &json!(generation)));
        // The new generation answers at once.
        assert_eq!(control.status()["generations"][0]["pid"], outcome["pid"]);
        let blue = u32::try_from(blue).expect("a pid");
        if let Some(held) = held {
            following.until(|line| *line == json!({ "event": "draining", "connections": 1 }));
            assert!(server.pids().contains(&blue), "it has a connection");
            drop(held);
            let rest: Vec<Value> = following.by_ref().collect();
            assert_eq!(rest.last(), Some(&json!({ "event": "gone" })), "{rest:?}");
            server.wait_gone(blue, Duration::from_secs(3));
        }
        assert_eq!(following.next(), None, "that was the last one");
    }
}

#[test]
fn a_reload_that_fails_says_why() {
    let deployed = Deployed::new();
    let server = deployed.start("").ready();
    let control = Raw::of(&server);
    for (generation, file, target, why) in
        [(2, GARBAGE, "/v1/reload", "cannot be spawned"), (3, GREEN, "/v1/reload?drain=true", "before it was ready")]
    {
        deployed.put(file);
        let lines: Vec<Value> = control.follow(target).collect();
        let last = lines.last().expect("a line");
        assert_eq!(keys(last), "event outcome generation reason took".split(' ').collect(), "{lines:?}");
        assert_eq!((&last["outcome"], &last["generation"]), (&json!("rolled_back"), &json!(generation)));
        assert!(last["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{last}");
        let status = control.status();
        assert_eq!((&status["rollout"], &status["reloads_rolled_back"]), (&Value::Null, &json!(generation - 1)));
        assert_eq!(status["last_reload"]["reason"], last["reason"]);
        assert_eq!(status["generations"].as_array().map(Vec::len), Some(1), "{status}");
        assert_eq!(status["generations"][0]["phase"], "serving");
    }
    deployed.put_real();
    assert_eq!(control.reload().done()["generation"], 4);
    let status = control.status();
    assert_eq!((&status["reloads_done"], &status["reloads_rolled_back"]), (&json!(1), &json!(2)), "handed on");
}

#[test]
fn who_asks_at_the_wrong_time_is_told_why() {
    let deployed = Deployed::new();
    let server = deployed.start("slow").ready();
    let control = Raw::of(&server);
    deployed.put(GREEN);
    let following = control.reload();
    server.wait_log(" spawned generation=2 ", SOON);
    let who = format!("generation 1 (pid {})", server.first_pid());
    for target in ["/v1/reload", "/v1/reload?drain=true"] {
        control.ask("POST", target).refuses(409, &["the rollout of generation 2 is under way", &who]);
    }
    control.ask("POST", "/v1/promote").refuses(409, &["generation 2 is starting", "only a canary or a soak"]);
    // Blue drains as long as `_held` is open, and the connection `old` still reaches blue.
    let _held = kept(server.addr());
    let mut old = BufReader::new(control.connect().expect("connected"));
    let mut ask_old = |method: &str, target: &str| {
        old.get_mut().write_all(request_and_keep(method, target).as_bytes()).expect("sent");
        read_answer(&mut old).expect("an answer")
    };
    assert_eq!(ask_old("GET", "/v1/status").status, 200);
    std::fs::write(deployed.out(), "go on").expect("green may go on");
    let green = following.done()["pid"].clone();
    for (method, target) in [("GET", "/v1/status"), ("POST", "/v1/reload"), ("POST", "/v1/promote")] {
        ask_old(method, target).refuses(503, &[&who, "generation 2 is live: ask again"]);
    }
    // Blue still answers with its own metrics.
    let metrics = ask_old("GET", "/metrics");
    assert!(metrics.status == 200 && metrics.body.contains("cutover_generation 1\n"), "{metrics:?}");
    let serves = format!("generation 2 (pid {green}) serves");
    for target in ["/v1/promote", "/v1/rollback"] {
        control.ask("POST", target).refuses(409, &["no rollout is under way", &serves]);
    }
}

#[test]
fn what_is_asked_at_the_right_time_is_done() {
    let server = Start::serve().args(["--canary", "50%:1h", "--soak", "1h"]).ready();
    let control = Raw::of(&server);
    let accepted = |target: &str| {
        let answer = control.ask("POST", target);
        assert_eq!((answer.status, answer.json()), (202, json!({})), "{target}");
    };
    let mut following = control.reload();
    following.until(|line| line["event"] == "canary");
    accepted("/v1/rollback");
    let last = following.last().expect("a line");
    assert_eq!((&last["outcome"], &last["reason"]), (&json!("rolled_back"), &json!("was rolled back on request")));
    let mut following = control.reload();
    following.until(|line| line["event"] == "canary");
    accepted("/v1/promote");
    following.until(|line| line["event"] == "soak");
    accepted("/v1/promote");
    assert_eq!(following.done()["generation"], 3);
    assert!(http_get(server.addr(), "/").expect("an answer").contains("generation 3"));
    accepted("/v1/stop");
    server.wait_log("gone generation=3", SOON);
    assert!(http_get(server.addr(), "/").is_err());
}

/// Connections of a generation that does not answer itself are counted too, by its sockets.
#[test]
fn the_connections_of_a_draining_generation_are_counted() {
    let server = Start::serve().ready();
    let control = Raw::of(&server);
    let mut held: Vec<TcpStream> = (0..7).map(|_| kept(server.addr())).collect();
    control.reload().done();
    let _of_green: Vec<TcpStream> = (0..3).map(|_| kept(server.addr())).collect();
    for expected in [7, 4] {
        held.truncate(expected);
        let deadline = std::time::Instant::now() + SOON;
        // Blue detects the closed connections a moment later.
        let status = loop {
            let status = control.status();
            if status["generations"][1]["connections"] == expected || std::time::Instant::now() > deadline {
                break status;
            }
        };
        let (green, blue) = (&status["generations"][0], &status["generations"][1]);
        assert_eq!((&blue["phase"], &blue["connections"]), (&json!("draining"), &json!(expected)), "{status}");
        assert_eq!((&blue["pid"], &blue["kinds"]), (&json!(server.first_pid()), &Value::Null));
        assert_eq!((&green["phase"], &green["connections"]), (&json!("serving"), &json!(3)), "{status}");
        assert_eq!((&green["share"], &blue["share"]), (&json!(100.0), &json!(0.0)));
    }
}

#[test]
fn usr1_still_logs_the_status() {
    let server = Start::serve().ready();
    let _held = kept(server.addr());
    let outcome = Raw::of(&server).reload().done();
    let mark = server.mark();
    server.signal(u32::try_from(outcome["pid"].as_u64().expect("a pid")).expect("a pid"), Signal::USR1);
    let line = server.wait_log_after(mark, " status ", SOON);
    let draining = format!("draining=[(1, {})]", server.first_pid());
    for word in ["generation=2", "phase=serving", "steering=steered", "connections=0", &draining] {
        assert!(line.contains(word), "`{word}` is not in: {line}");
    }
}
