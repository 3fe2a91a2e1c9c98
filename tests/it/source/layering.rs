//! The structure of the library: each row uses only itself and the rows below it, no modules form a cycle, and the
//! model has no I/O and no clock.

mod modules;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use self::modules::{Modules, files};

/// The rows from top to bottom: a row may use itself and the rows below it. Each row may use `error`.
const ROWS: [&str; 10] =
    ["control", "server", "supervisor", "client", "doctor", "runtime", "config", "sys", "model", "defaults"];
/// Exceptions to this order, as pairs: the first row may not use the second one, though the second one is below.
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
const GROUND: &str = "error";

/// Words that the model must not use outside its tests, as the tokens of the code with spaces between them.
const IMPURE: [&str; 10] = [
    "Instant :: now",
    "SystemTime",
    "std :: fs",
    "std :: net :: Tcp",
    "std :: os",
    "std :: env",
    "std :: process",
    "std :: thread",
    "tokio",
    "tracing",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Whether `row` may not use `other`.
fn is_broken(row: &str, other: &str) -> bool {
    let place = ROWS.iter().position(|name| *name == row).expect("a row");
    ROWS[..place].contains(&other) || APART.contains(&(row, other))
}

/// The violations: the module, and the row that the module uses.
fn imports_upwards(modules: &Modules) -> Vec<String> {
    let mut found = Vec::new();
    for (module, source) in modules.iter().filter(|(module, _)| !module.is_empty()) {
        for used in source.rows() {
            let row = module[0].as_str();
            let broken = match (row == GROUND, used == GROUND) {
                (_, true) => false,
                (true, false) => true,
                // The public names of the crate's root are for users, not for the library itself.
                (false, false) => !ROWS.contains(&used) || is_broken(row, used),
            };
            if broken {
                found.push(format!("{} uses {used}", module.join("::")));
            }
        }
    }
    found
}

#[test]
fn no_import_goes_upwards() {
    let modules = Modules::read(&source());
    for row in ROWS {
        assert!(modules.iter().any(|(module, _)| module.first().is_some_and(|name| name == row)), "{row} is empty");
    }
    assert_eq!(imports_upwards(&modules), Vec::<String>::new());
}

#[test]
fn no_modules_form_a_circle() {
    let modules = Modules::read(&source());
    let circles = modules.circles();
    // The dependencies within each cycle, so that the failure shows how the cycle is closed.
    let name = |module: &Vec<String>| module.join("::");
    let within = |circle: &BTreeSet<Vec<String>>, module| -> Vec<String> {
        modules
            .needed_by(module)
            .intersection(circle)
            .map(|needed| format!("{} needs {}", name(module), name(needed)))
            .collect()
    };
    let ways: Vec<_> =
        circles.iter().flat_map(|circle| circle.iter().flat_map(move |module| within(circle, module))).collect();
    assert!(circles.is_empty(), "{ways:#?}");
}

#[test]
fn the_program_uses_the_public_api_only() {
    for file in files(&source().join("bin")) {
        let text = std::fs::read_to_string(&file).expect("text");
        let modules = Modules::of([("", text.as_str())]);
        let (_, code) = modules.iter().next().expect("one");
        let into: Vec<_> = code.rows().filter(|name| ROWS.contains(name)).collect();
        assert_eq!(into, Vec::<&str>::new(), "{} reaches into the library", file.display());
    }
}

#[test]
fn the_model_has_no_clock_and_no_io() {
    for (module, source) in
        Modules::read(&source()).iter().filter(|(module, _)| module.first().is_some_and(|row| row == "model"))
    {
        for word in IMPURE {
            assert!(!source.code.contains(word), "{} uses {word}", module.join("::"));
        }
    }
}

#[test]
fn unsafe_stands_only_in_sys() {
    for (module, source) in
        Modules::read(&source()).iter().filter(|(module, _)| module.first().is_none_or(|row| row != "sys"))
    {
        assert!(!source.code.contains("unsafe {"), "{} has an unsafe block", module.join("::"));
    }
}

/// The unit tests of a module stand at its end, or, if they are long, in `tests.rs` in the folder of the module.
#[test]
fn unit_tests_stand_where_they_are_looked_for() {
    const INLINE_MAX: usize = 100;
    for file in files(&source()) {
        let (text, path) = (std::fs::read_to_string(&file).expect("text"), file.display());
        assert!(!text.contains("#[path"), "{path} hides where a module stands");
        assert!(!file.file_stem().is_some_and(|name| name.to_string_lossy().ends_with("_tests")), "{path}");
        let inline = text.split_once("mod tests {").map_or(0, |(_, tests)| tests.lines().count());
        assert!(inline <= INLINE_MAX, "{path} ends with {inline} lines of tests");
    }
}

#[test]
fn a_fault_would_be_found() {
    for (file, code, found) in [
        ("model::x", "use crate::sys::socket;", "model::x uses sys"),
        ("sys::x", "fn f() { crate::runtime::x() }", "sys::x uses runtime"),
        ("sys::x", "fn f() { println!(\"{}\", crate::runtime::x()) }", "sys::x uses runtime"),
        ("server::x", "use crate::client::Control;", "server::x uses client"),
        ("client::x", "use crate::{model::x, runtime::y};", "client::x uses runtime"),
        ("client", "#[cfg(test)] mod tests; use crate::doctor::Finding;", "client uses doctor"),
        ("doctor", "use crate::runtime::x;", "doctor uses runtime"),
        ("error", "use crate::model::x;", "error uses model"),
        ("sys::x", "pub(crate) use crate::server::X;", "sys::x uses server"),
        ("sys::x", "use super::super::server::X;", "sys::x uses server"),
        ("sys", "pub use super::server;", "sys uses server"),
        ("sys::x", "use crate::Server;", "sys::x uses Server"),
    ] {
        assert_eq!(imports_upwards(&Modules::of([(file, code)])), [found], "{code}");
    }
    let fine = [(
        "runtime::x",
        "use crate::sys::socket; use crate::error::Error; #[cfg(test)] mod t { use crate::server::x; }",
    )];
    assert_eq!(imports_upwards(&Modules::of(fine)), Vec::<String>::new());
}

#[test]
fn a_circle_would_be_found() {
    let circles = |files: &[(&str, &str)]| -> Vec<Vec<String>> {
        let circles = Modules::of([("", "")].into_iter().chain(files.iter().copied())).circles();
        circles.into_iter().map(|circle| circle.iter().map(|module| module.join("::")).collect()).collect()
    };
    let row = ("a", "mod x; mod y; mod z; pub(crate) use self::x::X;");
    let [x, y] = ["a::x", "a::y"];
    assert_eq!(circles(&[row, (x, "use super::y::Y;"), (y, "fn f() { crate::a::x::g() }")]), [[x, y]]);
    assert_eq!(circles(&[row, (x, "use super::y::Y;"), (y, "use super::X;")]), [[x, y]], "behind a re-export");
    assert_eq!(
        circles(&[row, (x, "use super::y;"), (y, "use super::z as a;"), ("a::z", "use crate::a::{x::X};")]),
        [["a::x", "a::y", "a::z"]]
    );
    assert_eq!(
        circles(&[("a", "mod x; use x::X; struct A;"), (x, "use super::A;")]),
        [["a", "a::x"]],
        "parent and child"
    );
    assert_eq!(circles(&[row, (x, "use super::y::Y;"), (y, "use std::x::X;")]), Vec::<Vec<String>>::new());
    assert_eq!(
        circles(&[row, (x, "#[cfg(test)] mod tests { use crate::a::y; }"), (y, "use super::x;")]),
        Vec::<Vec<String>>::new()
    );
}
