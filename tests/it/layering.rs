//! The house: rows import only from rows below them, and the model has no I/O and no clock.

use std::fs;
use std::path::{Path, PathBuf};

/// From the top to the bottom: a row may use itself and the rows below it. Each row may use `error`.
const ROWS: [&str; 9] = ["control", "server", "supervisor", "client", "doctor", "runtime", "config", "sys", "model"];
/// What stands at the same height, or needs less than all that is below it: the first may not use the second.
const APART: [(&str, &str); 8] = [
    ("server", "supervisor"),
    ("server", "client"),
    ("server", "doctor"),
    ("supervisor", "client"),
    ("supervisor", "doctor"),
    ("client", "doctor"),
    ("client", "runtime"),
    ("doctor", "runtime"),
];
const GROUND: [&str; 1] = ["error"];

/// Words that have no place in the model outside its tests.
const IMPURE: [&str; 10] = [
    "Instant::now",
    "SystemTime",
    "std::fs",
    "std::net::Tcp",
    "std::os",
    "std::env",
    "std::process",
    "std::thread",
    "tokio",
    "tracing",
];

/// The files of a row: one, or a folder of them.
fn row(name: &str) -> Vec<PathBuf> {
    let file = source().join(name).with_extension("rs");
    if file.exists() { vec![file] } else { sources(&source().join(name)) }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// The code of a file without its tests and comments.
fn code(path: &Path) -> String {
    let is_test = |part: &std::ffi::OsStr| part.to_string_lossy().ends_with("tests.rs") || part == "tests";
    if path.strip_prefix(source()).unwrap_or(path).iter().any(is_test) {
        return String::new();
    }
    let text = fs::read_to_string(path).expect("text");
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| format!("{line}\n")).collect()
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// What of `crate::…` the code names, first part only; `super::` from a row's own top counts as well.
fn imports(code: &str) -> Vec<String> {
    let after = code.match_indices("crate::").map(|(at, found)| &code[at + found.len()..]);
    after.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()).collect()
}

/// Names what breaks the rule for one file of `row`.
fn broken(row: &str, code: &str) -> Vec<String> {
    let place = ROWS.iter().position(|r| *r == row).expect("a row");
    let is_broken = |name: &String| ROWS[..place].contains(&name.as_str()) || APART.contains(&(row, name.as_str()));
    imports(code).into_iter().filter(is_broken).collect()
}

#[test]
fn no_import_goes_upwards() {
    for name in ROWS {
        let files = row(name);
        assert!(!files.is_empty(), "the row {name} is empty");
        for file in files {
            let code = code(&file);
            assert_eq!(broken(name, &code), Vec::<String>::new(), "{} imports upwards", file.display());
            for name in imports(&code) {
                let known = ROWS.contains(&name.as_str()) || GROUND.contains(&name.as_str());
                // The public names of the crate's root are for users, not for the house itself.
                assert!(known, "{} imports crate::{name}, which is no row of the house", file.display());
            }
        }
    }
    for ground in GROUND {
        let code = code(&source().join(format!("{ground}.rs")));
        assert!(imports(&code).iter().all(|name| GROUND.contains(&name.as_str())), "{ground} stands on something");
    }
}

#[test]
fn the_program_uses_the_public_api_only() {
    for file in sources(&source().join("bin")) {
        for name in imports(&code(&file)) {
            assert!(!ROWS.contains(&name.as_str()), "{} reaches into crate::{name}", file.display());
        }
    }
}

#[test]
fn the_model_has_no_clock_and_no_io() {
    for file in sources(&source().join("model")) {
        let code = code(&file);
        for word in IMPURE {
            assert!(!code.contains(word), "{} uses {word}", file.display());
        }
    }
}

#[test]
fn unsafe_stands_only_in_sys() {
    for file in sources(&source()).into_iter().filter(|file| !file.starts_with(source().join("sys"))) {
        assert!(!code(&file).contains("unsafe "), "{} has an unsafe block", file.display());
    }
}

#[test]
fn an_import_upwards_would_be_found() {
    assert_eq!(broken("model", "use crate::sys::socket;\n"), ["sys"]);
    assert_eq!(broken("sys", "fn f() { crate::runtime::x() }\n"), ["runtime"]);
    assert_eq!(broken("server", "use crate::client::Control;\n"), ["client"]);
    assert_eq!(broken("client", "use crate::server::Server;\nuse crate::runtime::x;\n"), ["server", "runtime"]);
    assert_eq!(broken("client", "use crate::doctor::Finding;\n"), ["doctor"]);
    assert_eq!(broken("doctor", "use crate::client::x;\nuse crate::runtime::x;\n"), ["client", "runtime"]);
    assert_eq!(broken("runtime", "use crate::sys::socket;\nuse crate::model::x;\n"), Vec::<String>::new());
}
