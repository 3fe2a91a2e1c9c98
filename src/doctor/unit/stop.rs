//! How the unit stops: whether open connections are finished.

use super::Unit;
use super::program::verb_of_cutover;
use super::properties::Command;
use super::reload::ASKS_EVERY;
use crate::doctor::finding::Finding;

const WAITS: &str =
    "remove ExecStop=, because systemd itself tells the main process to stop; or ExecStop=/usr/local/bin/cutover stop";

pub(super) fn findings(unit: &Unit) -> Vec<Finding> {
    let others = [kill_signal(unit), stop_timeout(unit)];
    [exec_stop(unit), kill_mode(unit)].into_iter().chain(others.into_iter().flatten()).collect()
}

/// After the command has ended, systemd sends KillSignal= itself (systemd.service(5), ExecStop=).
fn exec_stop(unit: &Unit) -> Finding {
    const SUBJECT: &str = "ExecStop";
    let commands = unit.shown.commands(SUBJECT);
    if commands.is_empty() {
        return Finding::ok(SUBJECT, "none: systemd tells the main process to stop, and waits for its end");
    }
    if commands.iter().any(waits) {
        return Finding::ok(SUBJECT, "waits for the end of the main process");
    }
    let what = "does not wait for the end of the server: systemd sends SIGTERM when the command has ended, and if the \
                command has sent SIGTERM itself, the second one stops the server at once and cuts open connections";
    Finding::problem(SUBJECT, what, WAITS)
}

/// Whether the command waits for the end of the server: kill(1) alone does not; a shell may, and `cutover stop` does.
fn waits(command: &Command) -> bool {
    let last = command.path.rsplit('/').next();
    let verb = verb_of_cutover(command).and_then(|place| command.words.get(place));
    verb.is_none_or(|verb| verb == "stop") && !matches!(last, Some("kill" | "pkill" | "killall" | "true"))
}

fn kill_mode(unit: &Unit) -> Finding {
    const SUBJECT: &str = "KillMode";
    match unit.shown.one("KillMode") {
        "mixed" => {
            Finding::ok(SUBJECT, "mixed: the live generation is told to stop, and waits for the generations that drain")
        }
        "process" => Finding::note(
            SUBJECT,
            "process: processes of older generations that are left when the live one has ended are never stopped",
            "KillMode=mixed",
        ),
        "none" => Finding::problem(
            SUBJECT,
            "none: systemctl stop stops no process, and the processes that are left block the next start",
            "KillMode=mixed",
        ),
        other => Finding::note(
            SUBJECT,
            format!("{other}: every generation gets SIGTERM at the same time, even one that is still becoming ready"),
            "KillMode=mixed",
        ),
    }
}

fn kill_signal(unit: &Unit) -> Option<Finding> {
    const GRACEFUL: [&str; 3] = ["", "15", "2"];
    let signal = unit.shown.one("KillSignal");
    let wrong = unit.serving.is_some() && !GRACEFUL.contains(&signal);
    wrong.then(|| {
        let what = format!("signal {signal}: the server stops gracefully at SIGTERM and SIGINT, and at no other");
        Finding::problem("KillSignal", what, "remove KillSignal=")
    })
}

fn stop_timeout(unit: &Unit) -> Option<Finding> {
    const SUBJECT: &str = "TimeoutStopSec";
    let drain = unit.serving.as_ref()?.drain;
    let limit = unit.shown.time("TimeoutStopUSec")?;
    let fix = || format!("TimeoutStopSec={}s, or a shorter --drain-timeout", drain.as_secs().saturating_add(15));
    Some(if limit > drain {
        Finding::ok(SUBJECT, format!("longer than the {drain:?} that a drain takes at the most"))
    } else if limit <= ASKS_EVERY {
        let what = format!("{limit:?}: connections that take longer are cut, though a drain may take up to {drain:?}");
        Finding::problem(SUBJECT, what, fix())
    } else {
        let what = format!(
            "{limit:?}, and a drain takes up to {drain:?}: that is enough only because the server asks for more time \
             every {ASKS_EVERY:?}"
        );
        Finding::note(SUBJECT, what, fix())
    })
}
