//! Conformance suites of other projects: kosoku (RFC 6455, the cases of Autobahn) and httpwg (RFC 9113).
//!
//! Each suite runs twice: against a server at rest, and against a server that reloads all the time. The result must be the
//! same: the cases that are named in `conformance/` may fail, each for the reason that stands there, and no other case.
//!
//! A case has one connection, and does not reconnect. So the server of the second run leaves a connection that was begun
//! before a reload alone: the drain of its generation lasts for an hour, and so does the grace after which HTTP/2 is told to
//! go. What these runs show is that a reload disturbs neither a connection that is open nor one that is just begun; other
//! tests show how connections are told to go.
//!
//! The results of httpwg depend here and there on which packet comes first, and its build takes minutes: it runs with
//! `CUTOVER_LONG=1` only.
//!
//! There is no suite for HTTP/1 in a package registry that would say more than our own tests: the crate goose-http has 7
//! cases of cispa/http-conformance, 5 of which judge a choice of hyper or of the application. Both suites speak plain TCP
//! only.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::app::{App, HOUR, Options};
use crate::support::example;
use crate::support::foreign::{find, output, python, text, unpacked, while_reloading};
use crate::support::process::Instance;

/// How often a case may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Each time.
    Always,
    /// Sometimes: the suite, or the server's answer, depends on which of two packets comes first.
    Sometimes,
}

/// The cases that may fail. A line is `always NAME` or `sometimes NAME`; `#` begins a comment, which has the reason.
fn expected(list: &'static str) -> BTreeMap<&'static str, Expected> {
    let lines = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parse = |line: &'static str| match line.split_once(' ') {
        Some(("always", name)) => (name, Expected::Always),
        Some(("sometimes", name)) => (name, Expected::Sometimes),
        Some(_) | None => panic!("neither always nor sometimes: {line}"),
    };
    lines.map(parse).collect()
}

/// Compares the cases that have failed with those that may fail.
#[track_caller]
fn assert_as_expected(failed: &BTreeSet<String>, list: &'static str, report: &str) {
    let expected = expected(list);
    let unexpected: Vec<_> = failed.iter().filter(|name| !expected.contains_key(name.as_str())).collect();
    let is_missing = |(name, how): &(&&str, &Expected)| **how == Expected::Always && !failed.contains(**name);
    let passed: Vec<_> = expected.iter().filter(is_missing).map(|(name, _)| name).collect();
    assert!(
        unexpected.is_empty() && passed.is_empty(),
        "failed against the expectation: {unexpected:#?}; passed against the expectation: {passed:#?}; {report}"
    );
}

/// Runs a suite at rest, and while the server reloads.
fn twice(server: &Instance, run: impl Fn()) {
    run();
    let (_, reloads) = while_reloading(server, &run);
    println!("{reloads} reloads in the second run");
    assert!(reloads >= 3, "{reloads} reloads");
}

mod websocket {
    use super::*;

    const CASES: usize = 301;

    #[test]
    fn rfc_6455() {
        let Some(script) = find("kosoku/bin/kosoku") else { return };
        let (server, address) = example("websocket", &["3600"]);
        let folder = tempfile::tempdir().expect("a folder");
        twice(&server, || {
            let mut kosoku = python("kosoku").expect("it is there");
            // The cases 12 and 13 are about compression, which axum's WebSockets do not offer.
            kosoku
                .arg(&script)
                .args(["-x", "12.*", "-x", "13.*", "-p", "4", "-o"])
                .arg(folder.path())
                .arg(format!("{address}/stay"));
            let report = text(&output(&mut kosoku));
            let index = std::fs::read(folder.path().join("index.json")).expect("the results");
            let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
            let servers = index.as_object().expect("servers");
            let cases = servers.values().next().and_then(|cases| cases.as_object()).expect("cases");
            assert_eq!(cases.len(), CASES, "{report}");
            let is_ok = |result: &serde_json::Value| matches!(result.as_str(), Some("OK" | "INFORMATIONAL"));
            let failed = cases.iter().filter(|(_, case)| !is_ok(&case["behavior"]) || !is_ok(&case["behaviorClose"]));
            let failed = failed.map(|(name, _)| name.clone()).collect();
            assert_as_expected(&failed, include_str!("conformance/websocket"), &report);
        });
    }
}

mod http2 {
    use super::*;

    const CASES: usize = 107;
    const PASSED: &str = "✅ Test passed: RFC 9113 :: ";
    const FAILED: &str = "❌ Test failed: RFC 9113 :: ";

    #[test]
    fn rfc_9113() {
        if std::env::var_os("CUTOVER_LONG").is_none() || find("httpwg").is_none() {
            return;
        }
        let app = App::new(Options { idle_grace: HOUR, drain_timeout: HOUR, ..Options::default() });
        let server = app.start();
        twice(&server, || {
            let mut httpwg = unpacked("httpwg/bin/httpwg").expect("it is there");
            httpwg.args(["--frame-timeout", "1000", "-a", &server.addr().to_string()]);
            // The results vary less if the cases run one after the other.
            let report = text(&output(httpwg.env("SEQUENTIAL", "1").env("RUST_LOG", "error")));
            let names = |mark| report.lines().filter_map(move |line| line.strip_prefix(mark)).map(str::to_owned);
            let (passed, failed): (BTreeSet<_>, BTreeSet<_>) = (names(PASSED).collect(), names(FAILED).collect());
            println!("{} passed, {} failed", passed.len(), failed.len());
            let list = include_str!("conformance/http2");
            assert_as_expected(&failed, list, &report);
            // The suite prints nothing for a case in which the suite itself panics.
            let (known, seen) = (expected(list), passed.union(&failed).collect::<BTreeSet<_>>());
            let silent = known
                .iter()
                .filter(|(name, how)| **how == Expected::Sometimes && !seen.iter().any(|seen| seen == *name));
            assert!(seen.len() + silent.count() >= CASES, "only {} cases: {report}", seen.len());
        });
    }
}
