//! The control socket does what `docs/openapi.json` says, and nothing else.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Write as _};

use serde_json::{Value, json};

use super::{SOON, kept};
use crate::support::deployed::{Deployed, GARBAGE};
use crate::support::process::Start;
use crate::support::programs::{Port, Program};
use crate::support::raw_control::{Answer, Following, Raw, read_answer, request_and_keep};
use crate::support::run::Run;

const FILE: &str = include_str!("../../../docs/openapi.json");
/// The methods that OpenAPI 3.1 allows for a path.
const METHODS: [&str; 8] = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"];
/// Documented answers that no test here produces: the metrics of a generation that is gone, a moment that no test can
/// hit. The 403 answers are tested in `tests/it/control/strangers.rs`.
const UNSEEN: [&str; 1] = ["GET /metrics 503"];

/// The file, with every object closed: a further field is no error for a client, but is an error here.
struct Document {
    file: Value,
    /// "METHOD PATH STATUS" of each answer that was checked.
    seen: RefCell<BTreeSet<String>>,
}

/// Closes each object: a property that is not listed becomes an error.
fn close(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if object.get("type") == Some(&json!("object")) && object.contains_key("properties") {
                object.insert("additionalProperties".to_owned(), json!(false));
            }
            object.values_mut().for_each(close);
        }
        Value::Array(array) => array.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl Document {
    fn read() -> Document {
        let mut file: Value = serde_json::from_str(FILE).expect("the file is JSON");
        assert_eq!(file["openapi"], "3.1.0");
        close(&mut file["components"]["schemas"]);
        Document { file, seen: RefCell::default() }
    }

    /// The faults of `value` against `schema`; empty if `value` conforms.
    fn faults(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut schema = schema.clone();
        schema["components"] = json!({ "schemas": self.file["components"]["schemas"] });
        let validator = jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("no schema: {error}"));
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    #[track_caller]
    fn is(&self, name: &str, value: &Value) {
        let faults = self.faults(&json!({ "$ref": format!("#/components/schemas/{name}") }), value);
        assert!(faults.is_empty(), "it is no {name}: {faults:#?}\n{value:#}");
    }

    /// Resolves the description of an answer, which may be a reference.
    fn response<'a>(&'a self, response: &'a Value) -> &'a Value {
        match response["$ref"].as_str() {
            Some(name) => self.file.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("no {name}")),
            None => response,
        }
    }

    /// Each documented operation, by `METHOD PATH`.
    fn operations<'a>(&'a self) -> BTreeMap<String, &'a Value> {
        let paths = self.file["paths"].as_object().expect("paths");
        let of_path = |(path, item): (&'a String, &'a Value)| -> Vec<(String, &'a Value)> {
            let methods = item.as_object().expect("an object");
            methods.iter().map(|(method, of)| (format!("{} {path}", method.to_uppercase()), of)).collect()
        };
        paths.iter().flat_map(of_path).collect()
    }

    /// Asserts that the answer has a documented status, content type and body.
    #[track_caller]
    fn answers(&self, operation: &str, status: u16, answer: &Answer) {
        assert_eq!(answer.status, status, "{operation}: {answer:?}");
        let operations = self.operations();
        let response = &operations[operation]["responses"][status.to_string()];
        assert!(!response.is_null(), "{operation} answers {status}, which is not documented: {answer:?}");
        self.seen.borrow_mut().insert(format!("{operation} {status}"));
        self.has_body(self.response(response), answer);
    }

    #[track_caller]
    fn has_body(&self, response: &Value, answer: &Answer) {
        let content = response["content"].as_object().expect("a content");
        let (kind, content) = content.iter().next().expect("one content type");
        assert_eq!(answer.header("content-type"), Some(kind.as_str()), "{answer:?}");
        let body = match kind.as_str() {
            "application/json" => answer.json(),
            _ => json!(answer.body),
        };
        let faults = self.faults(&content["schema"], &body);
        assert!(faults.is_empty(), "not as documented: {faults:#?}\n{answer:?}");
    }

    #[track_caller]
    fn asks(&self, control: &Raw, operation: &str, query: &str, status: u16) {
        let (method, path) = operation.split_once(' ').expect("a method and a path");
        self.answers(operation, status, &control.ask(method, &format!("{path}{query}")));
    }

    /// The status, checked against the document.
    #[track_caller]
    fn status(&self, control: &Raw) -> Value {
        let answer = control.ask("GET", "/v1/status");
        self.answers("GET /v1/status", 200, &answer);
        answer.json()
    }

    /// Asks for a reload. The lines of the answer are checked as they are read.
    #[track_caller]
    fn reload<'a>(&'a self, control: &Raw, query: &str) -> Lines<'a> {
        let following = control.follow(&format!("/v1/reload{query}"));
        self.seen.borrow_mut().insert("POST /v1/reload 200".to_owned());
        Lines { document: self, following }
    }
}

/// The lines of a reload, each checked as it is read.
struct Lines<'a> {
    document: &'a Document,
    following: Following,
}

impl Lines<'_> {
    #[track_caller]
    fn until(&mut self, event: &str) -> Value {
        loop {
            let line = self.following.next().unwrap_or_else(|| panic!("no {event}"));
            self.document.is("Progress", &line);
            if line["event"] == event {
                return line;
            }
        }
    }

    /// The last line.
    #[track_caller]
    fn end(self) -> Value {
        let document = self.document;
        let lines: Vec<Value> = self.following.collect();
        lines.iter().for_each(|line| document.is("Progress", line));
        lines.last().expect("a line").clone()
    }
}

#[test]
fn each_request_is_answered_as_documented() {
    let document = Document::read();
    let server = Start::serve().args(["--canary", "50%:1h", "--soak", "1h"]).ready();
    let control = Raw::of(&server);
    // No rollout is under way.
    assert_eq!(document.status(&control)["rollout"], Value::Null);
    document.asks(&control, "GET /metrics", "", 200);
    document.asks(&control, "POST /v1/promote", "", 409);
    document.asks(&control, "POST /v1/rollback", "", 409);
    document.asks(&control, "POST /v1/reload", "?drain=perhaps", 400);
    // A rollout that is rolled back.
    let mut lines = document.reload(&control, "");
    lines.until("canary");
    assert_eq!(document.status(&control)["rollout"]["phase"], "canary");
    document.asks(&control, "POST /v1/reload", "", 409);
    document.asks(&control, "POST /v1/rollback", "", 202);
    assert_eq!(lines.end()["outcome"], "rolled_back");
    assert_eq!(document.status(&control)["last_reload"]["outcome"], "rolled_back");
    // A rollout that completes, while the old generation has a connection to drain.
    let held = kept(server.addr());
    let mut old = BufReader::new(control.connect().expect("connected"));
    let mut ask_old = |operation: &str, status| {
        let (method, path) = operation.split_once(' ').expect("a method and a path");
        old.get_mut().write_all(request_and_keep(method, path).as_bytes()).expect("sent");
        document.answers(operation, status, &read_answer(&mut old).expect("an answer"));
    };
    ask_old("GET /v1/status", 200);
    let mut lines = document.reload(&control, "?drain=true");
    lines.until("canary");
    document.asks(&control, "POST /v1/promote", "", 202);
    lines.until("soak");
    assert_eq!(document.status(&control)["rollout"]["phase"], "soaking");
    document.asks(&control, "POST /v1/promote", "", 202);
    assert_eq!(lines.until("outcome")["outcome"], "done");
    for operation in document.operations().into_keys().filter(|operation| operation != "GET /metrics") {
        ask_old(&operation, 503);
    }
    lines.until("draining");
    document.status(&control);
    drop(held);
    assert_eq!(lines.end(), json!({ "event": "gone" }));
    assert_eq!(document.status(&control)["last_reload"]["outcome"], "done");
    document.asks(&control, "POST /v1/stop", "", 202);
    server.wait_log("gone generation=3", SOON);
    // All documented answers have been seen.
    let of_operation = |(operation, of): (String, &Value)| -> Vec<String> {
        let statuses = of["responses"].as_object().expect("responses").keys();
        statuses.filter(|status| *status != "403").map(|status| format!("{operation} {status}")).collect()
    };
    let documented: BTreeSet<String> = document.operations().into_iter().flat_map(of_operation).collect();
    let seen: BTreeSet<String> = document.seen.borrow().iter().cloned().chain(UNSEEN.map(str::to_owned)).collect();
    assert_eq!(documented, seen, "what is documented, and what was seen");
}

#[test]
fn each_value_of_the_query_is_understood() {
    let document = Document::read();
    let server = Start::serve().ready();
    let control = Raw::of(&server);
    let operations = document.operations();
    let parameter = &operations["POST /v1/reload"]["parameters"][0];
    let (name, values) = (parameter["name"].as_str().expect("a name"), parameter["schema"]["enum"].as_array());
    for value in values.expect("values").iter().map(|value| value.as_str().expect("text")) {
        let query = if value.is_empty() { format!("?{name}") } else { format!("?{name}={value}") };
        let last = document.reload(&control, &query).end();
        let expected = if value == "false" { "outcome" } else { "gone" };
        assert_eq!(last["event"], expected, "{query}");
    }
}

#[test]
fn nothing_is_there_that_is_not_documented() {
    let document = Document::read();
    let server = Start::serve().ready();
    let control = Raw::of(&server);
    let (none, other) =
        ["NotFound", "MethodNotAllowed"].map(|name| &document.file["components"]["responses"][name]).into();
    let paths: Vec<&String> = document.file["paths"].as_object().expect("paths").keys().collect();
    for path in &paths {
        for method in METHODS {
            if document.operations().contains_key(&format!("{method} {path}")) {
                continue;
            }
            // An answer to HEAD has no body: only its status can be checked.
            if method == "HEAD" {
                let (said, _) = control
                    .write_and_read(format!("HEAD {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes());
                assert!(said.starts_with("HTTP/1.1 405 "), "{path}: {said}");
                continue;
            }
            let answer = control.ask(method, path);
            assert_eq!(answer.status, 405, "{method} {path} is not documented: {answer:?}");
            document.has_body(other, &answer);
            let allow = answer.header("allow").expect("allow");
            assert!(document.operations().contains_key(&format!("{allow} {path}")), "{method} {path}: {answer:?}");
        }
    }
    for path in
        ["/", "/v1", "/v1/", "/v1/status/", "/v1/events", "/v1/doctor", "/v2/status", "/openapi.json", "/healthz"]
    {
        assert!(!paths.iter().any(|known| *known == path));
        for method in ["GET", "POST"] {
            let answer = control.ask(method, path);
            assert_eq!(answer.status, 404, "{method} {path} is not documented: {answer:?}");
            document.has_body(none, &answer);
        }
    }
}

/// The metrics of a text: the name of each sample, with its type and labels.
fn metrics(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let types: BTreeMap<&str, &str> = types.collect();
    let mut found: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for sample in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = sample.split_at(sample.find(['{', ' ']).expect("a name"));
        let endings = ["_total", "_info", "_bucket", "_count", "_sum"];
        let family = endings.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let kind = types.get(family).or_else(|| types.get(name)).unwrap_or_else(|| panic!("no type of {sample}"));
        // The samples of a histogram are its own business, as is the label of its buckets.
        let name = if *kind == "histogram" { family } else { name };
        let entry = found.entry(name.to_owned()).or_insert_with(|| ((*kind).to_owned(), BTreeSet::new()));
        let labels = rest.strip_prefix('{').and_then(|rest| rest.split_once("} ")).map_or("", |(labels, _)| labels);
        let labels = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
        entry.1.extend(labels.filter(|label| label != "le"));
    }
    found
}

#[test]
fn the_metrics_are_those_that_are_documented() {
    let document = Document::read();
    let operations = document.operations();
    let documented = operations["GET /metrics"]["x-metrics"].as_array().expect("a list");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let labels = |of: &Value| of["labels"].as_array().expect("a list").iter().map(text).collect::<BTreeSet<_>>();
    let documented: BTreeMap<_, _> =
        documented.iter().map(|of| (text(&of["name"]), (text(&of["type"]), labels(of)))).collect();
    let server = Start::serve().ready();
    let control = Raw::of(&server);
    document.reload(&control, "").end();
    assert_eq!(metrics(&control.ask("GET", "/metrics").body), documented);
}

#[test]
fn a_supervised_program_has_the_same_interface() {
    let document = Document::read();
    let port = Port::free();
    let Some(served) = Program::Python.at(port.address) else { return };
    let run = Run::at(port.address, &served.command).args(["--canary", "50%:1h", "--soak", "1h"]).ready();
    let control = Raw::named(&run, "it");
    let status = document.status(&control);
    assert_eq!(status["supervisor"], run.first_pid());
    document.asks(&control, "GET /metrics", "", 200);
    document.asks(&control, "POST /v1/promote", "", 409);
    let mut lines = document.reload(&control, "?drain");
    lines.until("canary");
    assert_eq!(document.status(&control)["rollout"]["phase"], "canary");
    document.asks(&control, "POST /v1/promote", "", 202);
    lines.until("soak");
    document.asks(&control, "POST /v1/promote", "", 202);
    lines.until("outcome");
    assert_eq!(lines.end()["event"], "gone");
    document.asks(&control, "POST /v1/rollback", "", 409);
    assert_eq!(document.status(&control)["reloads_done"], 1);
}

#[test]
fn a_reload_that_fails_is_told_as_documented() {
    let document = Document::read();
    let deployed = Deployed::new();
    let server = deployed.start("").ready();
    let control = Raw::of(&server);
    deployed.put(GARBAGE);
    assert_eq!(document.reload(&control, "").end()["outcome"], "rolled_back");
    document.status(&control);
}

/// The examples of the book conform to the document too.
#[test]
fn the_examples_of_the_book_are_as_documented() {
    let document = Document::read();
    let page = include_str!("../../../docs/control-api.md");
    let (_, block) = page.split_once("```json\n").expect("a status");
    let (status, _) = block.split_once("```").expect("its end");
    document.is("Status", &serde_json::from_str(status).expect("JSON"));
    let page = include_str!("../../../docs/operators.md");
    let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("{\"event\"")).collect();
    assert!(lines.len() > 5, "{lines:?}");
    lines.iter().for_each(|line| document.is("Progress", &serde_json::from_str(line).expect("JSON")));
}

/// Negative control: the checks above can fail.
#[test]
fn a_fault_would_be_found() {
    let document = Document::read();
    let server = Start::serve().ready();
    let status = document.status(&Raw::of(&server));
    let faults = |change: &dyn Fn(&mut Value)| {
        let mut changed = status.clone();
        change(&mut changed);
        document.faults(&json!({ "$ref": "#/components/schemas/Status" }), &changed).len()
    };
    assert_eq!(faults(&|_| {}), 0);
    assert_ne!(faults(&|status| status["mood"] = json!("good")), 0, "a further field");
    assert_ne!(faults(&|status| status["generations"][0]["mood"] = json!("good")), 0, "one below");
    assert_ne!(faults(&|status| status["generations"][0]["kinds"]["mood"] = json!(1)), 0, "one further below");
    assert_ne!(faults(&|status| status["reloads_done"] = Value::Null), 0, "another type");
    assert_ne!(faults(&|status| status["generations"][0]["phase"] = json!("singing")), 0, "another phase");
    assert_ne!(faults(&|status| drop(status.as_object_mut().expect("one").remove("version"))), 0, "a field less");
    let progress = json!({ "$ref": "#/components/schemas/Progress" });
    assert_ne!(document.faults(&progress, &json!({ "event": "song" })).len(), 0, "another event");
    assert_ne!(
        document.faults(&progress, &json!({ "event": "gone", "song": 1 })).len(),
        0,
        "an event with a further field"
    );
}
