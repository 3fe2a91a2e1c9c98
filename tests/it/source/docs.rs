//! The documents name each option, verb, exit code, metric and log line that exists; and each of their links has a
//! target.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::verb::Verb;

/// Upper limit for the README, so that readers can finish it in one sitting.
const README_LINES: usize = 130;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below a folder with this extension.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let of = |path: PathBuf| match path.is_dir() {
        true => files(&path, extension),
        false if path.extension().is_some_and(|found| found == extension) => vec![path],
        false => vec![],
    };
    entries.flat_map(of).collect()
}

/// The pages of the book, as one text.
fn book() -> String {
    files(&root().join("docs"), "md").iter().map(|page| fs::read_to_string(page).expect("text")).collect()
}

fn help(words: &[&str]) -> String {
    Verb::new(words[0]).args(&words[1..]).run().with(0).out
}

/// The long options of a help text, each of which begins its line.
fn options(help: &str) -> BTreeSet<&str> {
    help.lines().filter_map(|line| line.split_whitespace().next()).filter(|word| word.starts_with("--")).collect()
}

fn verbs() -> BTreeSet<String> {
    let help = help(&["--help"]);
    let (_, commands) = help.split_once("Commands:\n").expect("the commands");
    let lines = commands.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    names.filter_map(|line| line.split_whitespace().next()).filter(|verb| *verb != "help").map(str::to_owned).collect()
}

#[test]
fn each_verb_and_each_option_is_documented() {
    let book = book();
    let verbs = verbs();
    assert!(verbs.len() >= 8, "{verbs:?}");
    for verb in &verbs {
        assert!(book.contains(&format!("cutover {verb}")), "docs/ does not name the verb {verb}");
        let help = help(&[verb, "--help"]);
        let options = options(&help);
        assert!(!options.is_empty() || verb == "promote" || verb == "rollback", "no option in {help}");
        for option in options {
            // Options of a server have a row in a table; the few options of the other verbs are named in the text.
            let is_explained = match verb.as_str() {
                "serve" | "run" => is_named(&book, &format!("\n| `{option}")),
                _ => is_named(&book, option),
            };
            assert!(is_explained, "docs/ does not explain {option} of cutover {verb}");
        }
    }
}

/// Whether the text has this word, and not just a longer one that begins with it.
fn is_named(text: &str, word: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    text.match_indices(word).any(|(at, found)| ends(&text[at + found.len()..]))
}

#[test]
fn each_exit_code_is_documented() {
    let help = help(&["--help"]);
    let (_, after) = help.split_once("Exit status:").expect("the exit codes");
    let (codes, _) = after.split_once("\n\n").expect("the end of the paragraph");
    let codes: BTreeSet<&str> = codes
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '+')
        .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    assert!(codes.len() >= 10 && codes.contains("128+n"), "{codes:?}");
    let page = read("docs/troubleshooting.md");
    for code in codes {
        assert!(
            page.contains(&format!("\n| {code} | ")),
            "docs/troubleshooting.md does not explain the exit code {code}"
        );
    }
}

#[test]
fn each_metric_is_documented() {
    let file: Value = serde_json::from_str(&read("docs/openapi.json")).expect("JSON");
    let metrics = file["paths"]["/metrics"]["get"]["x-metrics"].as_array().expect("a list");
    let page = read("docs/control-api.md");
    assert!(metrics.len() > 10);
    for name in metrics.iter().map(|metric| metric["name"].as_str().expect("a name")) {
        assert!(page.contains(&format!("| `{name}` | ")), "docs/control-api.md does not explain {name}");
    }
}

/// The messages that a source file logs at `info` and above.
fn log_lines(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let levels = ["tracing::info!(", "tracing::warn!(", "tracing::error!("];
    let of_level =
        |level: &'static str| code.match_indices(level).map(|(at, found)| last_literal(&code[at + found.len()..]));
    levels.into_iter().flat_map(of_level).collect()
}

/// The constant parts of a message, without the inserted values.
fn parts(line: &str) -> Vec<String> {
    let outside = line.split('{').enumerate().map(|(number, part)| match number {
        0 => part,
        _ => part.split_once('}').map_or(part, |(_, after)| after),
    });
    outside.map(|part| part.trim().replace('`', "")).filter(|part| part.len() > 4).collect()
}

/// The last string literal of a call, up to its closing parenthesis: the message, which follows the fields.
fn last_literal(code: &str) -> String {
    let (mut depth, mut last, mut chars) = (1, String::new(), code.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            '"' => {
                last.clear();
                while let Some(c) = chars.next_if(|c| *c != '"') {
                    // A string literal that continues on the next line.
                    if c == '\\' && chars.next_if_eq(&'\n').is_some() {
                        while chars.next_if(|c| c.is_whitespace()).is_some() {}
                    } else {
                        last.push(c);
                    }
                }
                chars.next();
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    last
}

#[test]
fn each_log_line_is_explained() {
    let page = read("docs/troubleshooting.md");
    let text = page.replace('`', "");
    let mut lines = 0;
    for file in files(&root().join("src"), "rs") {
        let name = file.display().to_string();
        if name.ends_with("tests.rs") || name.contains("/tests/") {
            continue;
        }
        for line in log_lines(&fs::read_to_string(&file).expect("text")) {
            lines += 1;
            let is_explained = match line.contains('{') {
                true => parts(&line).iter().all(|part| text.contains(part)),
                // The whole message must be there: a word such as `live` has other places as well.
                false => page.contains(&format!("`{line}`")),
            };
            assert!(is_explained, "docs/troubleshooting.md does not explain the line `{line}` of {name}");
        }
    }
    assert!(lines > 60, "only {lines} lines were found");
}

/// The anchor of a heading in a link, as code hosts and mdBook make it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The lines of a page outside of code blocks.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    page.lines().filter(move |line| {
        is_code ^= line.trim_start().starts_with("```");
        !is_code
    })
}

/// The targets of all links of a page into this repository.
fn links(page: &str) -> Vec<&str> {
    let targets = prose(page).flat_map(|line| line.split("](").skip(1));
    let targets = targets.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")).collect()
}

/// The links of this page that have no target.
fn dead_links(path: &Path, page: &str) -> Vec<String> {
    let folder = path.parent().expect("a folder");
    let is_dead = |link: &&str| {
        let (file, heading) = link.split_once('#').unwrap_or((link, ""));
        let target = if file.is_empty() { path.to_owned() } else { folder.join(file) };
        if !target.exists() {
            return true;
        }
        let has_heading = || {
            let text = fs::read_to_string(&target).unwrap_or_default();
            prose(&text).any(|line| line.starts_with('#') && anchor(line) == heading)
        };
        !heading.is_empty() && !has_heading()
    };
    links(page).into_iter().filter(is_dead).map(str::to_owned).collect()
}

#[test]
fn no_link_is_dead() {
    let pages = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples/any-language/README.md"];
    let pages = pages.iter().map(|page| root().join(page)).chain(files(&root().join("docs"), "md"));
    let mut links_seen = 0;
    for path in pages {
        let page = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        links_seen += links(&page).len();
        assert_eq!(dead_links(&path, &page), Vec::<String>::new(), "links of {}", path.display());
    }
    assert!(links_seen > 50, "only {links_seen} links were found");
}

#[test]
fn each_page_is_in_the_book() {
    let summary = read("docs/SUMMARY.md");
    let named: BTreeSet<&str> = links(&summary).into_iter().collect();
    let there: BTreeSet<String> = files(&root().join("docs"), "md")
        .iter()
        .map(|page| page.strip_prefix(root().join("docs")).expect("below").display().to_string())
        .filter(|page| page != "SUMMARY.md")
        .collect();
    assert_eq!(named, there.iter().map(String::as_str).collect(), "what is named, and what is there");
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= README_LINES, "{lines} lines of at most {README_LINES}");
}

/// Negative control: the checks above can fail.
#[test]
fn a_fault_would_be_found() {
    let path = root().join("docs/faq.md");
    let page =
        "[a](nowhere.md) [b](evidence.md#nothing) [c](evidence.md#figures) [d](#no-such)\n```\n[e](code.md)\n```\n";
    assert_eq!(dead_links(&path, page), ["nowhere.md", "evidence.md#nothing", "#no-such"]);
    assert_eq!(anchor("## `cutover run` in a unit"), "cutover-run-in-a-unit");
    assert!(is_named("say --probe /x", "--probe") && !is_named("say --probe-timeout 1s", "--probe"));
    assert_eq!(options("Usage: x --not\n      --soak <TIME>  How --long\n  -h, --help\n"), BTreeSet::from(["--soak"]));
    let source = "tracing::warn!(%error, path = f(\"x\"), \"cannot \\\n    sing {song}, going on\", 1);\ntracing::debug!(\"no\");";
    assert_eq!(log_lines(source), ["cannot sing {song}, going on"]);
    assert_eq!(parts("cannot sing {song:?}, `going` on: {}"), ["cannot sing", ", going on:"]);
}
