//! Each default is written once, in `cutover::defaults`; rustdoc, help, docs and units must give the same value.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cutover::defaults;

use crate::support::verb::Verb;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A duration as prose has it: `30 s`.
fn words(value: Duration) -> String {
    format!("{} s", value.as_secs())
}

/// The options of the library with their defaults, as rustdoc and docs/library.md have them.
fn library() -> Vec<(&'static str, String)> {
    vec![
        ("ready_timeout", words(defaults::READY_TIMEOUT)),
        ("probe_timeout", words(defaults::PROBE_TIMEOUT)),
        ("linger", words(defaults::LINGER)),
        ("idle_grace", words(defaults::IDLE_GRACE)),
        ("drain_timeout", words(defaults::DRAIN_TIMEOUT)),
        ("header_read_timeout", words(defaults::HEADER_READ_TIMEOUT)),
        ("max_header_size", with_comma(defaults::MAX_HEADER_SIZE)),
        ("backlog", defaults::BACKLOG.to_string()),
        ("listeners_per_address", defaults::LISTENERS_PER_ADDRESS.to_string()),
    ]
}

fn with_comma(number: usize) -> String {
    format!("{},{:03}", number / 1000, number % 1000)
}

/// The options of the program with their defaults, as the help and docs/operators.md have them; each with its verb,
/// `serve` or `run`.
fn program() -> Vec<(&'static str, &'static str, String)> {
    let seconds = |value: Duration| format!("{}s", value.as_secs());
    let mut all = Vec::new();
    for verb in ["serve", "run"] {
        all.extend([
            (verb, "--ready-timeout", seconds(defaults::READY_TIMEOUT)),
            (verb, "--probe-timeout", seconds(defaults::PROBE_TIMEOUT)),
            (verb, "--soak", seconds(defaults::SOAK)),
            (verb, "--linger", seconds(defaults::LINGER)),
        ]);
    }
    all.extend([
        ("serve", "--idle-grace", seconds(defaults::IDLE_GRACE)),
        ("serve", "--drain-timeout", seconds(defaults::DRAIN_TIMEOUT)),
        ("serve", "--listeners-per-address", defaults::LISTENERS_PER_ADDRESS.to_string()),
        ("run", "--stop-timeout", seconds(defaults::DRAIN_TIMEOUT)),
        ("run", "--stop-signal", defaults::STOP_SIGNAL.to_owned()),
    ]);
    all
}

/// The default of a method, from its rustdoc: the text after `Default: `.
fn documented(source: &str, method: &str) -> String {
    let (before, _) = source.split_once(&format!("pub fn {method}(")).unwrap_or_else(|| panic!("no method {method}"));
    let docs = &before[before.rfind("\n\n").unwrap_or(0)..];
    let text: String = docs.lines().filter_map(|line| line.trim().strip_prefix("///")).collect();
    let (_, default) = text.rsplit_once("Default: ").unwrap_or_else(|| panic!("{method} names no default: {text}"));
    default.to_owned()
}

/// Whether a text begins with this value, and not with a longer one.
fn begins_with(text: &str, value: &str) -> bool {
    text.strip_prefix(value).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[test]
fn rustdoc_says_the_defaults() {
    let source = read("src/server/options.rs");
    for (method, value) in library() {
        let said = documented(&source, method);
        assert!(begins_with(&said, &value), "{method}: the default is {value}, and rustdoc says {said}");
    }
    let source = read("src/supervisor/options.rs");
    for (method, value) in [
        ("ready_timeout", words(defaults::READY_TIMEOUT)),
        ("probe_timeout", words(defaults::PROBE_TIMEOUT)),
        ("linger", words(defaults::LINGER)),
        ("stop_timeout", words(defaults::DRAIN_TIMEOUT)),
        ("stop_signal", format!("`{}`", defaults::STOP_SIGNAL)),
    ] {
        let said = documented(&source, method);
        assert!(begins_with(&said, &value), "{method}: the default is {value}, and rustdoc says {said}");
    }
}

#[test]
fn the_help_says_the_defaults() {
    for (verb, option, value) in program() {
        let help = Verb::new(verb).args(["--help"]).run().with(0).out;
        let (_, after) = help.split_once(&format!("{option} <")).unwrap_or_else(|| panic!("{verb} has no {option}"));
        let own = after.split("\n      --").next().expect("a part");
        assert!(
            own.contains(&format!("[default: {value}]")),
            "{verb} {option}: the default is {value}, and the help says {own}"
        );
    }
}

#[test]
fn the_docs_say_the_defaults() {
    let page = read("docs/library.md");
    for (method, value) in library().into_iter().filter(|(method, _)| *method != "probe_timeout") {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{method}`")))
            .unwrap_or_else(|| panic!("no row for {method}"));
        let said = row.split('|').nth(2).expect("a column").trim();
        assert!(
            begins_with(&said.replace(" bytes", ""), &value),
            "{method}: the default is {value}, and docs/library.md says {said}"
        );
    }
    let page = read("docs/operators.md");
    for (_, option, value) in program().into_iter().filter(|(verb, ..)| *verb == "serve") {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{option}`")))
            .unwrap_or_else(|| panic!("no row for {option}"));
        let said = row.split('|').nth(2).expect("a column").trim();
        assert_eq!(said, value, "{option} in docs/operators.md");
    }
    let page = read("docs/any-program.md");
    for option in [
        format!("`--stop-signal {}`", defaults::STOP_SIGNAL),
        format!("`--stop-timeout {}s`", defaults::DRAIN_TIMEOUT.as_secs()),
    ] {
        assert!(page.contains(&option), "docs/any-program.md does not say {option}");
    }
}

/// systemd kills at its own timeout, which must be longer than the drain: so the server itself ends the last
/// connections.
#[test]
fn the_units_leave_time_for_a_drain() {
    for unit in ["cutover.service", "cutover-notify-reload.service", "cutover@.service"] {
        let text = read(&format!("systemd/{unit}"));
        let time = |key: &str| -> Duration {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{key}=")))
                .unwrap_or_else(|| panic!("{unit}: no {key}"));
            humantime::parse_duration(line).expect("a time")
        };
        assert!(time("TimeoutStopSec") > defaults::DRAIN_TIMEOUT, "{unit}");
        assert!(time("TimeoutStartSec") > defaults::READY_TIMEOUT, "{unit}");
    }
}

#[test]
fn a_fault_would_be_found() {
    let source = "impl Server {\n\n    /// How long.\n    /// Default: 30 s.\n    pub fn linger(self) {}\n";
    assert_eq!(documented(source, "linger"), "30 s.");
    assert!(begins_with("30 s.", "30 s") && !begins_with("300 s", "30") && !begins_with("5 s", "30 s"));
}
