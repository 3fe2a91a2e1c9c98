//! Asks systemctl(1) about a unit. No other module runs systemctl.
#![expect(clippy::disallowed_methods, reason = "the doctor blocks, and says so")]

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use super::finding::Finding;
use super::unit::{self, PROPERTIES, Properties, Unit};

/// Time limit of one call. The manager answers in milliseconds.
const WAIT: Duration = Duration::from_secs(5);
/// How much of an answer is read, in bytes.
const ANSWER_MAX: u64 = 1 << 20;
/// Pause between two checks for the end of the process, after the process has closed its output.
const LOOK: Duration = Duration::from_millis(2);

/// The unit, as systemd knows it.
///
/// # Errors
/// The finding that says why systemd knows nothing of the unit.
pub(super) fn unit(name: &str) -> Result<Unit, Finding> {
    let wrong = |what: String, fix: &str| Finding::problem(name.escape_default().to_string(), what, fix);
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":_.\\@-".contains(c);
    if name.is_empty() || name.starts_with('-') || !name.chars().all(allowed) {
        return Err(wrong("it cannot be the name of a unit".into(), "write it as systemctl does: cutover.service"));
    }
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => wrong("no systemctl was found".into(), "leave out --unit where there is no systemd"),
        _ => wrong(format!("systemctl fails: {error}"), "run cutover doctor where systemd manages the unit"),
    };
    let version = systemctl(&["--version"]).map_err(failed)?;
    let version = version.split_whitespace().nth(1).and_then(unit::leading_number);
    let version = version.ok_or_else(|| wrong("systemctl prints no version".into(), "use systemctl of systemd"))?;
    let shown = systemctl(&["show", "--no-pager", &format!("--property={}", PROPERTIES.join(",")), "--", name]);
    let shown = Properties::parse(&shown.map_err(failed)?);
    match shown.one("LoadState") {
        "loaded" => {}
        "not-found" => {
            return Err(wrong(
                "systemd knows no such unit".into(),
                "systemctl list-units --type=service shows the units that systemd knows",
            ));
        }
        state => {
            let why = shown.one("LoadError").split_once(' ').map(|(_, why)| why.trim_matches('"')).unwrap_or_default();
            let what = format!("systemd has not loaded the unit: {state} {why}");
            return Err(wrong(
                what.trim_end().into(),
                "systemctl status tells more; systemctl unmask, if the unit is masked",
            ));
        }
    }
    if !shown.one("Id").ends_with(".service") {
        return Err(wrong(format!("{} is no service", shown.one("Id")), "name the service"));
    }
    // Settings that this version does not understand, or does not show before the unit runs, are found in the unit's
    // files only.
    let written = systemctl(&["cat", "--no-pager", "--", name]).map(|text| unit::written(&text)).unwrap_or_default();
    Ok(Unit::new(version, shown, written))
}

/// Runs systemctl, and returns its output.
fn systemctl(arguments: &[&str]) -> io::Result<String> {
    let mut command = Command::new("systemctl");
    command.args(arguments).env("LC_ALL", "C").env("SYSTEMD_COLORS", "0").env("SYSTEMD_PAGER", "");
    run(&mut command, WAIT)
}

/// Runs a program to its end, but for `wait` at most, and returns its stdout.
///
/// # Errors
/// The first line on stderr, if the program fails; `TimedOut`.
fn run(command: &mut Command, wait: Duration) -> io::Result<String> {
    let by = Instant::now() + wait;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (out, complaint) = (child.stdout.take().map(read), child.stderr.take().map(read));
    let text = |from: Option<Receiver<String>>| {
        let left = by.saturating_duration_since(Instant::now());
        from.and_then(|text| text.recv_timeout(left).ok())
    };
    let (out, complaint) = (text(out), text(complaint));
    let status = end(&mut child, by)?;
    let (Some(out), Some(complaint), Some(status)) = (out, complaint, status) else {
        return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {wait:?}")));
    };
    if status.success() {
        return Ok(out);
    }
    let line = complaint.lines().next().unwrap_or_default().to_owned();
    Err(io::Error::other(if line.is_empty() { status.to_string() } else { line }))
}

/// Reads to the end, in a thread of its own.
fn read(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        // What was read before an error is the result. Nobody receives the text if the wait for it is over.
        let _ = from.take(ANSWER_MAX).read_to_end(&mut text);
        let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
    });
    receiver
}

/// Waits for the end of the process; at the time `by`, kills the process and returns `None`.
fn end(child: &mut Child, by: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= by {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        // The process has closed its output, so its end is near; the standard library has no wait with a time limit.
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_it_writes_is_returned_and_what_it_complains_of_is_the_error() {
        assert_eq!(run(&mut sh("echo yes; echo no >&2"), WAIT).expect("fine"), "yes\n");
        let error = run(&mut sh("echo first >&2; echo second >&2; exit 1"), WAIT).expect_err("failed");
        assert_eq!(error.to_string(), "first");
        assert!(run(&mut sh("exit 3"), WAIT).expect_err("failed").to_string().contains('3'));
    }

    #[test]
    fn one_that_hangs_is_killed() {
        for script in ["exec sleep 60", "exec >&- 2>&-; exec sleep 60", "sleep 2 & wait"] {
            let began = Instant::now();
            let error = run(&mut sh(script), Duration::from_millis(50)).expect_err("too long");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(began.elapsed() < Duration::from_secs(10), "{script}");
        }
    }

    #[test]
    fn what_is_no_name_never_gets_to_it() {
        for name in ["", "--help", "a b", "*", "../x"] {
            let finding = unit(name).expect_err(name);
            assert!(finding.what.contains("cannot be the name"), "{finding:?}");
        }
    }
}
