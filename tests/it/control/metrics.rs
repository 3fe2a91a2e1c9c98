//! /metrics: well-formed, correct, and always reachable.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::Value;

use crate::support::app::{App, Options};
use crate::support::deployed::{Deployed, GARBAGE};
use crate::support::process::{Instance, Start};
use crate::support::raw_control::Raw;
use crate::support::{http_get, wait_connections};

const SOON: Duration = Duration::from_secs(10);
const CUTOVER: &str = env!("CARGO_BIN_EXE_cutover");
const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Maps `name{label="value"}` to the value.
type Samples = BTreeMap<String, f64>;

/// Parses the text strictly as OpenMetrics 1.0: metadata before samples, no metric twice, `# EOF` at the end.
#[track_caller]
fn parse(text: &str) -> Samples {
    let lines = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("no end: {text}"));
    let (mut samples, mut types) = (Samples::new(), BTreeMap::new());
    let mut now = String::new();
    for line in lines.lines() {
        match line.strip_prefix("# ").map(|meta| meta.splitn(3, ' ').collect::<Vec<_>>()) {
            Some(meta) => match meta[..] {
                ["HELP", name, help] => {
                    assert!(!help.is_empty() && !types.contains_key(name), "{line}");
                    now = name.to_owned();
                }
                ["TYPE", name, kind @ ("gauge" | "counter" | "info" | "histogram")] => {
                    assert_eq!(name, now, "{line}");
                    assert!(types.insert(now.clone(), kind).is_none(), "twice: {line}");
                }
                ["UNIT", name, unit] => {
                    assert!(name == now && name.ends_with(&format!("_{unit}")), "{line}");
                }
                _ => panic!("no metadata: {line}"),
            },
            None => {
                let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
                let name = series.split('{').next().expect("a part");
                let endings = match types.get(&now) {
                    Some(&"counter") => &["_total"][..],
                    Some(&"info") => &["_info"],
                    Some(&"histogram") => &["_bucket", "_count", "_sum"],
                    Some(_) => &[""],
                    None => panic!("no type: {line}"),
                };
                assert!(endings.iter().any(|ending| name == format!("{now}{ending}")), "{line}");
                assert!(name.starts_with("cutover_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
                check_labels(&series[name.len()..]);
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
                assert!(value.is_finite() && value >= 0.0, "{line}");
                assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
            }
        }
    }
    assert!(samples.len() > 10, "{text}");
    samples
}

#[track_caller]
fn check_labels(labels: &str) {
    let Some(inner) = labels.strip_prefix('{') else { return assert_eq!(labels, "") };
    for label in inner.strip_suffix('}').expect("an end").split(',') {
        let (key, value) = label.split_once('=').unwrap_or_else(|| panic!("no label: {labels}"));
        assert!(!key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase()), "{labels}");
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        assert!(value.is_some_and(|value| !value.contains(['"', '\\', '\n'])), "{labels}");
    }
}

fn agrees(samples: &Samples, status: &Value) {
    let own = &status["generations"].as_array().expect("a list").iter().find(|g| !g["kinds"].is_null()).expect("one");
    let get = |series: &str| *samples.get(series).unwrap_or_else(|| panic!("no {series} in {samples:?}"));
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no number: {value}"));
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned();
    let (name, version) = (text(&status["name"]), text(&status["version"]));
    assert_eq!(get(&format!("cutover_build_info{{name=\"{name}\",version=\"{version}\"}}")), 1.0);
    assert_eq!(get("cutover_generation"), number(&own["generation"]));
    assert!((get("cutover_age_seconds") - number(&own["age"])).abs() < 5.0);
    assert_eq!(get(&format!("cutover_steering{{tier=\"{}\"}}", text(&status["steering"]))), 1.0);
    assert_eq!(get(&format!("cutover_phase{{phase=\"{}\"}}", text(&own["phase"]))), 1.0);
    let share = if status["rollout"].is_null() { 0.0 } else { number(&status["rollout"]["share"]) };
    assert_eq!(get("cutover_next_share"), share / 100.0);
    let draining =
        status["generations"].as_array().expect("a list").iter().filter(|g| g["phase"] == "draining").count();
    assert_eq!(get("cutover_draining_generations"), draining as f64);
    assert_eq!(get("cutover_reloads_total{outcome=\"done\"}"), number(&status["reloads_done"]));
    assert_eq!(get("cutover_reloads_total{outcome=\"rolled_back\"}"), number(&status["reloads_rolled_back"]));
    for kind in ["fresh", "http1", "http2", "upgraded", "tcp"] {
        assert_eq!(get(&format!("cutover_connections{{kind=\"{kind}\"}}")), number(&own["kinds"][kind]), "{kind}");
    }
    match &status["last_reload"] {
        Value::Null => assert!(!samples.keys().any(|series| series.starts_with("cutover_last_reload"))),
        last => {
            // The status gives the duration in whole microseconds.
            assert!((get("cutover_last_reload_duration_seconds") - number(&last["took"])).abs() < 2e-6, "{last}");
            assert_eq!(get("cutover_last_reload_timestamp_seconds"), number(&last["at"]));
        }
    }
}

/// The address of the metrics, from the log.
#[track_caller]
fn offered(server: &Instance) -> SocketAddr {
    let line = server.wait_log("offering metrics", SOON);
    let address = line.split_whitespace().find_map(|word| word.strip_prefix("address="));
    address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address: {line}"))
}

/// The text of one scrape.
///
/// # Errors
/// The failure as text.
fn scrape(address: SocketAddr) -> Result<String, String> {
    let answer = http_get(address, "/metrics").map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no answer: {answer:?}"))?;
    let head = head.to_ascii_lowercase();
    let whole = head.starts_with("http/1.1 200 ") && head.contains(CONTENT) && body.ends_with("# EOF\n");
    if whole { Ok(body.to_owned()) } else { Err(answer) }
}

fn held(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(SOON)).expect("set");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    assert_ne!(stream.read(&mut [0; 4096]).expect("an answer"), 0);
    stream
}

#[test]
fn the_text_is_openmetrics_and_agrees_with_the_status() {
    let deployed = Deployed::new();
    let server = deployed.start("").args(["--metrics", "127.0.0.1:0"]).ready();
    let (control, address) = (Raw::of(&server), offered(&server));
    assert_ne!(address, server.addr());
    let _held: Vec<TcpStream> = (0..3).map(|_| held(server.addr())).collect();
    let look = || {
        let answer = control.ask("GET", "/metrics");
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(CONTENT)));
        let (on_socket, status) = (parse(&answer.body), control.status());
        agrees(&on_socket, &status);
        let mut on_tcp = parse(&scrape(address).expect("text"));
        // The scrape itself is a connection, which may still be open at the next scrape.
        let own = on_tcp.get_mut("cutover_connections{kind=\"http1\"}").expect("there");
        assert!((1.0..=2.0).contains(&(*own - on_socket["cutover_connections{kind=\"http1\"}"])), "{own}");
        *own = on_socket["cutover_connections{kind=\"http1\"}"];
        agrees(&on_tcp, &status);
        on_socket
    };
    // Waits until only the first generation drains, for its three connections.
    let settled = || {
        let deadline = std::time::Instant::now() + SOON;
        while control.status()["generations"].as_array().map(Vec::len) != Some(2) {
            assert!(std::time::Instant::now() < deadline, "{}", control.status());
        }
    };
    wait_connections(&server, 3);
    assert_eq!(look()["cutover_connections_accepted_total"], 3.0, "none but ours");
    for done in 1..=2 {
        control.reload().done();
        settled();
        assert_eq!(look()["cutover_reloads_total{outcome=\"done\"}"], f64::from(done));
    }
    deployed.put(GARBAGE);
    control.reload().last();
    deployed.put_real();
    assert_eq!(look()["cutover_reloads_total{outcome=\"rolled_back\"}"], 1.0);
    control.reload().done();
    settled();
    let samples = look();
    assert_eq!(samples["cutover_generation"], 5.0);
    assert_eq!(samples["cutover_reloads_total{outcome=\"done\"}"], 3.0, "over all generations");
    assert_eq!(samples["cutover_reloads_total{outcome=\"rolled_back\"}"], 1.0, "over all generations");
}

/// The requests of each generation are counted by itself, and those for metrics are not among them.
#[test]
fn requests_are_counted_by_what_the_application_makes_of_them() {
    let app = App::new(Options::default());
    let server = app.start();
    let control = Raw::of(&server);
    let look = || parse(&control.ask("GET", "/metrics").body);
    let count = |samples: &Samples| {
        ["2xx", "4xx", "5xx"].map(|class| samples[&format!("cutover_responses_total{{class=\"{class}\"}}")])
    };
    for _ in 0..3 {
        http_get(server.addr(), "/").expect("an answer");
    }
    app.healthz("503");
    http_get(server.addr(), "/healthz").expect("an answer");
    app.healthz("404");
    http_get(server.addr(), "/healthz").expect("an answer");
    assert_eq!(http_get(server.addr(), "/panic").expect("closed"), "", "the handler panics");
    let samples = look();
    assert_eq!(count(&samples), [3.0, 1.0, 1.0]);
    let without = |reason| samples[&format!("cutover_requests_without_response_total{{reason=\"{reason}\"}}")];
    assert_eq!(["error", "panic", "cancelled"].map(without), [0.0, 1.0, 0.0]);
    for name in ["time_to_response", "request_duration"] {
        let all = |end: &str| samples[&format!("cutover_{name}_seconds_{end}")];
        assert_eq!((all("count"), all("bucket{le=\"+Inf\"}")), (5.0, 5.0), "{name}");
        assert!(all("sum") > 0.0 && all("sum") < SOON.as_secs_f64(), "{name}");
    }
    control.reload().done();
    http_get(server.addr(), "/").expect("an answer");
    assert_eq!(count(&look()), [1.0, 0.0, 0.0], "the next generation counts for itself");
}

#[test]
fn the_share_of_a_canary_is_told_as_a_part() {
    let server = Start::serve().args(["--canary", "25%:1h"]).ready();
    let control = Raw::of(&server);
    control.reload().until(|line| line["event"] == "canary");
    // The event is sent a moment before the state machine learns that the kernel has the new share.
    let deadline = std::time::Instant::now() + SOON;
    while control.status()["rollout"]["share"] != 25.0 {
        assert!(std::time::Instant::now() < deadline);
    }
    let (samples, status) = (parse(&control.ask("GET", "/metrics").body), control.status());
    agrees(&samples, &status);
    assert_eq!((samples["cutover_next_share"], samples["cutover_phase{phase=\"canary\"}"]), (0.25, 1.0));
}

#[test]
fn there_is_nothing_else_on_that_address() {
    let server = Start::serve().args(["--metrics", "127.0.0.1:0"]).ready();
    let address = offered(&server);
    for path in ["/", "/v1/status", "/metrics/", "/v1/stop"] {
        assert!(http_get(address, path).expect("an answer").starts_with("HTTP/1.1 404 "), "{path}");
    }
    for path in ["/v1/reload", "/v1/stop", "/metrics"] {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(SOON)).expect("set");
        write!(stream, "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 40"), "{path}: {answer}");
    }
    assert!(http_get(server.addr(), "/metrics").is_ok_and(|answer| !answer.contains("cutover_")), "nor there");
    assert_eq!(server.pids(), [server.first_pid()]);
}

#[test]
fn no_scrape_fails_over_twenty_reloads() {
    let server = Start::serve().args(["--metrics", "127.0.0.1:0"]).ready();
    let (control, address) = (Raw::of(&server), offered(&server));
    let stop = AtomicBool::new(false);
    let scrapes = std::thread::scope(|scope| {
        let scraping = scope.spawn(|| {
            let (mut scrapes, mut failed) = (Vec::new(), Vec::new());
            while !stop.load(Relaxed) {
                match scrape(address) {
                    Ok(text) => {
                        let samples = parse(&text);
                        let reloads = samples["cutover_reloads_total{outcome=\"done\"}"];
                        scrapes.push((samples["cutover_generation"], reloads));
                    }
                    Err(why) => failed.push(why),
                }
            }
            (scrapes, failed)
        });
        let reloads = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for generation in 2..=21 {
                assert_eq!(control.reload().done()["generation"], generation);
                let samples = parse(&scrape(address).expect("text"));
                assert_eq!(samples["cutover_generation"], f64::from(generation), "the new one answers at once");
            }
        }));
        stop.store(true, Relaxed);
        let (scrapes, failed) = scraping.join().expect("no panic");
        reloads.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), scrapes.len());
        scrapes
    });
    println!("{} scrapes over 20 reloads", scrapes.len());
    assert!(scrapes.len() > 100, "{}", scrapes.len());
    assert!(scrapes.is_sorted(), "generations and counters only go up: {scrapes:?}");
}

/// Metrics must be available when the server has no room for users.
#[test]
fn they_are_beyond_the_limit_of_connections() {
    let serve = format!("ulimit -n 72; exec {CUTOVER} serve --listen 127.0.0.1:0 --metrics 127.0.0.1:0");
    let server = Start::program("bash").args(["-c", &serve]).ready();
    let (address, metrics) = (server.addr(), offered(&server));
    // Of 72 descriptors, half are for connections.
    let _held: Vec<TcpStream> = (0..36).map(|_| held(address)).collect();
    let mut waits = TcpStream::connect(address).expect("queued");
    waits.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    waits.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
    let refused = waits.read(&mut [0; 100]).expect_err("there is no room for it");
    assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
    for _ in 0..20 {
        let samples = parse(&scrape(metrics).expect("text"));
        // The scrape's own connection counts too, and perhaps the previous one, which is about to close.
        assert!((37.0..=38.0).contains(&samples["cutover_connections{kind=\"http1\"}"]), "{samples:?}");
    }
}

#[test]
fn an_address_in_use_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let server = Start::serve().args(["--metrics", &address]).spawn();
    assert_eq!(server.wait_exit(SOON).code(), Some(1));
    let line = server.wait_log("cannot begin", SOON);
    let who = format!("pid {}", std::process::id());
    assert!(line.contains(&format!("{address} is taken")) && line.contains(&who), "{line}");
    assert!(!server.log_contains("listening"), "{}", server.log());
    // The metrics address of another instance is refused too, though its socket could be shared.
    let first = Start::serve().args(["--metrics", "127.0.0.1:0"]).ready();
    let second = Start::serve().args(["--metrics", &offered(&first).to_string()]).spawn();
    assert_eq!(second.wait_exit(SOON).code(), Some(1));
    let line = second.wait_log("cannot begin", SOON);
    assert!(line.contains("is taken") && line.contains(&first.first_pid().to_string()), "{line}");
}

#[test]
fn the_address_of_metrics_may_change_and_not_become_the_application_s() {
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let (listen, metrics, other) = (free(), free(), free());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cutover.toml");
    let set = |listen: SocketAddr, metrics: Option<SocketAddr>| {
        let metrics = metrics.map(|metrics| format!("metrics = '{metrics}'")).unwrap_or_default();
        std::fs::write(&file, format!("listen = '{listen}'\n{metrics}\n")).expect("written");
    };
    set(listen, Some(metrics));
    let server = Start::program(CUTOVER).args(["serve", "--config"]).arg(&file).ready();
    let control = Raw::of(&server);
    set(metrics, Some(listen));
    let last = control.reload().last().expect("a line");
    assert_eq!(last["outcome"], "rolled_back", "{last}");
    let why = last["reason"].as_str().unwrap_or_default();
    assert!(why.contains("could not start: ") && why.contains("listens there for something else"), "{why}");
    scrape(metrics).expect("text");
    let mut before = metrics;
    for now in [Some(other), None, Some(metrics)] {
        let pid = server.main_pid();
        set(listen, now);
        control.reload().done();
        server.wait_gone(pid, SOON);
        scrape(before).expect_err("the address is gone");
        if let Some(now) = now {
            scrape(now).expect("text");
            before = now;
        }
    }
}
