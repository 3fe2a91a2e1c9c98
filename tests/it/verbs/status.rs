//! `cutover status` shows the state of an instance.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cutover::Phase;
use cutover::control::{ConnectionKinds, Status};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;

use crate::support::deployed::{Deployed, GARBAGE};
use crate::support::kept_alive;
use crate::support::process::{Instance, Start};
use crate::support::status::wait_status;
use crate::support::verb::{Verb, socket};

const SOON: Duration = Duration::from_secs(10);

/// The table with uniform gaps, and with placeholders for values that differ from run to run.
fn table(server: &Instance) -> String {
    let ended = Verb::of("status", server).run().with(0);
    assert_eq!(ended.err, "");
    let known = [
        (format!("cutover {}", env!("CARGO_PKG_VERSION")), "cutover VERSION"),
        (server.addr().to_string(), "ADDR"),
        (server.first_pid().to_string(), "BLUE"),
        (server.pids().last().expect("one").to_string(), "GREEN"),
    ];
    let line = |line: &str| {
        let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
        let line = cells.map(|cell| if is_time(cell) { "AGE" } else { cell }).collect::<Vec<_>>().join(" | ");
        let line = known.iter().fold(line, |line, (from, to)| line.replace(from, to));
        mask(&mask(&line, " after ", ", "), ", ", " ago") + "\n"
    };
    // A time of less than a second ago has words of its own.
    ended.out.replace(", just now", ", 0 s ago").lines().map(line).collect()
}

fn is_time(cell: &str) -> bool {
    let words: Vec<_> = cell.split(' ').collect();
    matches!(words[..], [number, "ms" | "s" | "min"] if number.parse::<u64>().is_ok())
}

/// Replaces a time that is between these two texts.
fn mask(line: &str, before: &str, after: &str) -> String {
    let time = line.match_indices(before).find_map(|(at, _)| {
        let rest = &line[at + before.len()..];
        rest.find(after).map(|end| &rest[..end]).filter(|text| is_time(text))
    });
    time.map_or_else(
        || line.to_owned(),
        |time| line.replace(&format!("{before}{time}{after}"), &format!("{before}TIME{after}")),
    )
}

#[track_caller]
fn shows(server: &Instance, rollout: &str, last: &str, rows: &[&str]) {
    let rows: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let wanted = format!(
        "cutover VERSION, instance ADDR\nlistens on | ADDR\nsteering | steered\nrollout | {rollout}\n\
         last reload | {last}\n\nGENERATION | PID | AGE | PHASE | SHARE | CONNECTIONS\n{rows}"
    );
    assert_eq!(table(server), wanted);
}

#[test]
fn serving_and_after_a_reload_and_draining() {
    let server = Start::serve().args(["--idle-grace", "1h", "--drain-timeout", "1h"]).ready();
    shows(&server, "none", "none", &["1 | BLUE | AGE | serving | 100 % | 0"]);
    let held = [(); 3].map(|()| kept_alive(server.addr()));
    shows(&server, "none", "none", &["1 | BLUE | AGE | serving | 100 % | 3 (http1 3)"]);
    Verb::of("reload", &server).run().with(0);
    let _fresh = TcpStream::connect(server.addr()).expect("connected");
    wait_status(&server, "accepted", |status| status.generations[0].connections == Some(1));
    let last = "generation 2 live after TIME, TIME ago";
    let green = "2 | GREEN | AGE | serving | 100 % | 1 (fresh 1)";
    shows(&server, "none", last, &[green, "1 | BLUE | AGE | draining | 0 % | 3"]);
    drop(held);
    server.wait_gone(server.first_pid(), SOON);
    shows(&server, "none", last, &[green]);
}

#[test]
fn canary_and_soaking() {
    let server = Start::serve().args(["--canary", "5%:1h", "--soak", "1h", "--idle-grace", "1h"]).ready();
    let _held = kept_alive(server.addr());
    let reload = Verb::of("reload", &server).begin();
    reload.wait_out("canary 5 %");
    let green = "2 | GREEN | AGE | standby | 5 % | 0";
    let rows = [green, "1 | BLUE | AGE | canary | 95 % | 1 (http1 1)"];
    shows(&server, "generation 2: canary 5 %, 1 h more", "none", &rows);
    Verb::of("promote", &server).run().with(0);
    reload.wait_out("soaking for 1 h");
    let rows = ["2 | GREEN | AGE | standby | 100 % | 0", "1 | BLUE | AGE | soaking | 0 % | 1 (http1 1)"];
    shows(&server, "generation 2: soaking, 1 h more", "none", &rows);
}

#[test]
fn after_a_reload_that_failed() {
    let deployed = Deployed::new();
    let server = deployed.start("").ready();
    deployed.put(GARBAGE);
    Verb::of("reload", &server).run().with(75);
    let program = deployed.program();
    let why = format!("cannot be spawned: execute {}: Exec format error (os error 8)", program.display());
    let last = format!("generation 2 rolled back after TIME, TIME ago: {why}");
    shows(&server, "none", &last, &["1 | BLUE | AGE | serving | 100 % | 0"]);
}

/// The columns of the real table are aligned.
#[test]
fn the_columns_are_straight() {
    let server = Start::serve().args(["--idle-grace", "1h", "--drain-timeout", "1h"]).ready();
    let _held = kept_alive(server.addr());
    Verb::of("reload", &server).run().with(0);
    let ended = Verb::of("status", &server).run().with(0);
    let lines: Vec<&str> = ended.out.lines().skip_while(|line| !line.starts_with("GENERATION")).collect();
    assert_eq!(lines.len(), 3, "{}", ended.out);
    for heading in ["PID", "AGE", "PHASE", "SHARE", "CONNECTIONS"] {
        let at = lines[0].find(heading).expect(heading);
        let is_straight = |line: &&str| line[..at].ends_with("  ") && !line[at..].starts_with(' ');
        assert!(lines.iter().all(is_straight), "{heading}:\n{}", ended.out);
    }
}

/// The status without the values that change between two requests.
fn settled(json: &str) -> Value {
    let mut value: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"));
    for generation in value["generations"].as_array_mut().expect("a list") {
        assert!(generation["age"].take().is_number(), "{json}");
    }
    if let Some(rollout) = value["rollout"].as_object_mut() {
        rollout.remove("elapsed").expect("how long it goes on");
        rollout.remove("left").expect("what is left");
    }
    value
}

fn by_the_socket(server: &Instance) -> String {
    let mut stream = UnixStream::connect(socket(server)).expect("connected");
    stream.set_read_timeout(Some(SOON)).expect("set");
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
}

#[test]
fn json_is_what_the_socket_says() {
    let server = Start::serve().args(["--canary", "5%:1h", "--drain-timeout", "1h", "--idle-grace", "1h"]).ready();
    let _held = kept_alive(server.addr());
    let json = || Verb::of("status", &server).args(["--json"]).run().with(0).out;
    let same = |generations: usize| {
        let told = json();
        assert_eq!(settled(&told), settled(&by_the_socket(&server)));
        let status: Status = serde_json::from_str(&told).expect("a status");
        assert_eq!(status.generations.len(), generations, "{told}");
        assert_eq!((status.name.as_str(), &status.addresses[..]), (&*server.addr().to_string(), &server.addrs()[..]));
    };
    same(1);
    let reload = Verb::of("reload", &server).begin();
    reload.wait_out("canary 5 %");
    same(2);
    Verb::of("promote", &server).run().with(0);
    reload.end().with(0);
    wait_status(&server, "one that drains", |status| status.generations[1].phase == Phase::Draining);
    same(2);
}

#[test]
fn connections_are_counted_by_what_is_spoken_on_them() {
    let server = Start::serve().ready();
    let counts = |fresh, http1, http2| {
        let what = format!("{fresh} fresh, {http1} HTTP/1, {http2} HTTP/2");
        wait_status(&server, &what, |status| {
            let kinds = status.generations[0].kinds.expect("of the one that answers");
            let ConnectionKinds { fresh: f, http1: one, http2: two, upgraded: 0, tcp: 0, .. } = kinds else {
                panic!("{kinds:?}")
            };
            (f, one, two) == (fresh, http1, http2) && status.generations[0].connections == Some(f + one + two)
        });
    };
    counts(0, 0, 0);
    let fresh = TcpStream::connect(server.addr()).expect("connected");
    counts(1, 0, 0);
    let http1 = [(); 2].map(|()| kept_alive(server.addr()));
    counts(1, 2, 0);
    let http2 = Http2::open(&server);
    counts(1, 2, 1);
    let table = Verb::of("status", &server).run().with(0).out;
    assert!(table.ends_with("  4 (fresh 1, http1 2, http2 1)\n"), "{table}");
    drop(fresh);
    counts(0, 2, 1);
    drop(http1);
    counts(0, 0, 1);
    drop(http2);
    counts(0, 0, 0);
}

/// An HTTP/2 connection, by prior knowledge, on which one request was answered.
struct Http2 {
    _runtime: tokio::runtime::Runtime,
    _sender: hyper::client::conn::http2::SendRequest<Empty<hyper::body::Bytes>>,
}

impl Http2 {
    fn open(server: &Instance) -> Http2 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let sender = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(server.addr()).await.expect("connected");
            let io = TokioIo::new(stream);
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
            tokio::spawn(connection);
            let request = hyper::Request::get(format!("http://{}/", server.addr())).body(Empty::new());
            let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
            let body = answer.into_body().collect().await.expect("a body").to_bytes();
            assert!(String::from_utf8_lossy(&body).contains("generation 1"));
            sender
        });
        Http2 { _runtime: runtime, _sender: sender }
    }
}
