//! `cutover doctor`: checks whether everything is fit for a restart without loss.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use clap::Args;
use cutover::doctor::{Doctor as Examiner, Finding, Level};

use crate::exit::{BUG, Failure, PROBLEM, print};
use crate::format;
use crate::rollout::{Addresses, address};
use crate::screen;

/// The column at which the text begins: after the longest level and two spaces.
const INDENT: usize = 9;
/// The narrowest width to which a text is wrapped.
const WIDTH_MIN: usize = 40;

/// Check whether kernel, limits, addresses and unit are fit for restarts without loss, and say how to fix what is not.
///
/// Prints one line per finding: ok, note or problem, what was checked, what was found, how to fix it. Needs no root,
/// and changes nothing. Exit status 1 if there is a problem, 0 if there are only notes.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Check this systemd unit, too: its settings and its main process.
    #[arg(long, value_name = "NAME")]
    unit: Option<String>,
    /// Check which processes listen on this address, too; may be given more than once. Default: the addresses on which
    /// the program of the unit listens.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    listen: Vec<Addresses>,
    /// Print the findings as JSON, one object per line: {"level":"ok|note|problem","subject":"…","what":"…","fix":"…" or null}
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Blocks the thread, which has nothing else to do.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let mut doctor = Examiner::new();
        for address in self.listen.iter().flat_map(|addresses| &addresses.0) {
            doctor = doctor.listen(*address);
        }
        if let Some(unit) = &self.unit {
            doctor = doctor.unit(unit);
        }
        let findings = doctor.examine();
        print(&if self.json { json(&findings)? } else { text(&findings, Style::of_stdout()) })?;
        match findings.iter().any(|finding| finding.level == Level::Problem) {
            true => Err(Failure::new(PROBLEM, "")),
            false => Ok(()),
        }
    }
}

fn json(findings: &[Finding]) -> Result<String, Failure> {
    let mut lines = String::new();
    for finding in findings {
        let line = serde_json::to_string(finding);
        lines += &line.map_err(|error| Failure::new(BUG, format!("a finding cannot be written as JSON: {error}")))?;
        lines.push('\n');
    }
    Ok(lines)
}

/// The layout of the findings.
#[derive(Debug, Clone, Copy)]
struct Style {
    /// The maximum width of a line; `None` if each finding is one line.
    width: Option<usize>,
    colour: bool,
}

impl Style {
    fn of_stdout() -> Style {
        if !std::io::stdout().is_terminal() {
            return Style { width: None, colour: false };
        }
        // <https://no-color.org>
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Style { width: Some(screen::size().0).filter(|width| *width >= WIDTH_MIN), colour }
    }
}

fn text(findings: &[Finding], style: Style) -> String {
    let mut text = String::new();
    for finding in findings {
        let fix = finding.fix.as_ref().map(|fix| format!("; {fix}")).unwrap_or_default();
        let line = format::one_line(&format!("{}: {}{fix}", finding.subject, finding.what));
        let line = style.width.map_or(line.clone(), |width| wrap(&line, width));
        let (begin, end) = match (style.colour, finding.level) {
            (false, _) => ("", ""),
            (true, Level::Ok) => ("\x1b[32m", "\x1b[0m"),
            (true, Level::Note) => ("\x1b[33m", "\x1b[0m"),
            (true, Level::Problem) => ("\x1b[1;31m", "\x1b[0m"),
        };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{begin}{:<7}{end}  {line}", finding.level);
    }
    text
}

/// Breaks a text between words, so that the text fits after the level.
fn wrap(line: &str, width: usize) -> String {
    let mut wrapped = String::new();
    let mut column = INDENT;
    for word in line.split(' ') {
        let length = word.chars().count();
        if column > INDENT && column + 1 + length > width {
            let _ = write!(wrapped, "\n{:INDENT$}", "");
            column = INDENT;
        } else if column > INDENT {
            wrapped.push(' ');
            column += 1;
        }
        wrapped += word;
        column += length;
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        let json = r#"[{"level":"ok","subject":"kernel","what":"Linux 6.1","fix":null},
            {"level":"problem","subject":"127.0.0.1:80","what":"a\nb listens there already","fix":"stop it"}]"#;
        serde_json::from_str(json).expect("findings")
    }

    #[test]
    fn one_line_a_finding_where_nobody_looks() {
        let wanted = "ok       kernel: Linux 6.1\nproblem  127.0.0.1:80: a b listens there already; stop it\n";
        assert_eq!(text(&findings(), Style { width: None, colour: false }), wanted);
    }

    #[test]
    fn a_terminal_gets_lines_that_fit_and_colour() {
        let shown = text(&findings(), Style { width: Some(40), colour: true });
        let wanted = "\x1b[32mok     \x1b[0m  kernel: Linux 6.1\n\
            \x1b[1;31mproblem\x1b[0m  127.0.0.1:80: a b listens there\n         already; stop it\n";
        assert_eq!(shown, wanted);
        assert_eq!(wrap("averyveryveryveryverylongword b", 10), "averyveryveryveryverylongword\n         b");
    }

    #[test]
    fn an_object_a_line() {
        let lines = json(&findings()).expect("plain data");
        assert_eq!(lines.lines().next(), Some(r#"{"level":"ok","subject":"kernel","what":"Linux 6.1","fix":null}"#));
        let again: Vec<Finding> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(again, findings());
    }
}
