//! How the unit reloads.

use std::time::Duration;

use super::Unit;
use super::program::verb_of_cutover;
use super::properties::Command;
use crate::doctor::finding::Finding;

const SUBJECT: &str = "ExecReload";
const SIGHUP: &str = "1";

/// How often a server asks for more time while a rollout or a drain is under way (EXTEND_TIMEOUT_USEC).
pub(super) const ASKS_EVERY: Duration = Duration::from_secs(5);

/// What one command does to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// kill(1), which does not wait for the outcome.
    Kills,
    /// `cutover reload`, whose exit status is the outcome.
    Waits,
    Other,
}

fn way(command: &Command) -> Way {
    let verb = verb_of_cutover(command).and_then(|place| command.words.get(place));
    let is_kill = |word: &String| word.rsplit('/').next() == Some("kill");
    match verb.map(String::as_str) {
        Some("reload") => Way::Waits,
        _ if command.words.iter().any(is_kill) => Way::Kills,
        _ => Way::Other,
    }
}

pub(super) fn kills(unit: &Unit) -> bool {
    unit.shown.commands(SUBJECT).iter().any(|command| way(command) == Way::Kills)
}

fn waits(unit: &Unit) -> bool {
    unit.shown.commands(SUBJECT).iter().any(|command| way(command) == Way::Waits)
}

pub(super) fn findings(unit: &Unit) -> Vec<Finding> {
    let commands = unit.shown.commands(SUBJECT);
    let by_systemd = unit.shown.is("Type", "notify-reload");
    let how = match (commands.is_empty(), by_systemd) {
        (true, true) => reload_signal(unit),
        (true, false) => Finding::problem(
            SUBJECT,
            "none: systemctl reload is refused, and a restart loses requests",
            "ExecReload=/usr/local/bin/cutover reload, or ExecReload=/bin/kill -HUP $MAINPID",
        ),
        (false, true) => twice(unit),
        (false, false) => once(unit, &commands),
    };
    [Some(how), start_timeout(unit)].into_iter().flatten().collect()
}

fn reload_signal(unit: &Unit) -> Finding {
    match unit.shown.one("ReloadSignal") {
        SIGHUP | "" => Finding::ok(SUBJECT, "none, and none is needed: systemd sends SIGHUP and waits for READY=1"),
        other => Finding::problem(
            "ReloadSignal",
            format!("signal {other}: the server reloads at SIGHUP, and at no other"),
            "remove ReloadSignal=",
        ),
    }
}

/// With Type=notify-reload, systemd itself sends SIGHUP, and then runs the commands.
fn twice(unit: &Unit) -> Finding {
    let what = "used with Type=notify-reload, which sends SIGHUP itself: the server gets two requests";
    let fix = "remove ExecReload=, or Type=notify";
    match waits(unit) {
        true => Finding::problem(SUBJECT, format!("{what}, refuses the second one, and systemctl reload fails"), fix),
        false => Finding::note(SUBJECT, format!("{what}, and refuses the second one"), fix),
    }
}

fn once(unit: &Unit, commands: &[Command]) -> Finding {
    let Some(command) = commands.iter().find(|command| way(command) != Way::Other) else {
        let what = format!("{}: whether that makes the server reload is not known here", commands[0].path);
        return Finding::note(SUBJECT, what, "ExecReload=/usr/local/bin/cutover reload");
    };
    match way(command) {
        Way::Kills if unit.serving.is_some() && !sends_hup(command) => Finding::problem(
            SUBJECT,
            format!("{}: the server reloads at SIGHUP, and at no other signal", command.words.join(" ")),
            "ExecReload=/bin/kill -HUP $MAINPID",
        ),
        Way::Kills | Way::Other => Finding::note(
            SUBJECT,
            "kill: systemctl reload returns before the next generation is live, and does not tell if the reload fails",
            "ExecReload=/usr/local/bin/cutover reload, which waits for the outcome",
        ),
        Way::Waits if command.ignores_failure => Finding::note(
            SUBJECT,
            "cutover reload, with a dash before it: systemctl reload succeeds when the reload has failed",
            "remove the dash",
        ),
        Way::Waits if unit.serving.as_ref().is_some_and(|serving| !serving.has_control) => Finding::problem(
            SUBJECT,
            "cutover reload needs a control socket, and the server is started with --no-control",
            "remove --no-control, or ExecReload=/bin/kill -HUP $MAINPID",
        ),
        Way::Waits => Finding::ok(SUBJECT, "cutover reload: waits, and its outcome is that of systemctl reload"),
    }
}

fn sends_hup(command: &Command) -> bool {
    command.words.iter().any(|word| {
        let name = word.trim_start_matches('-').trim_matches(['\'', '"', ';']).to_ascii_uppercase();
        matches!(name.as_str(), "HUP" | "SIGHUP" | "1" | "SHUP" | "SSIGHUP" | "S1")
    })
}

/// If a reload waits for the outcome, systemd gives up after TimeoutStartSec=, unless the server asks for more time.
fn start_timeout(unit: &Unit) -> Option<Finding> {
    const SUBJECT: &str = "TimeoutStartSec";
    let steps = unit.serving.as_ref()?.steps;
    let limit = unit.shown.time(SUBJECT).or_else(|| unit.shown.time("TimeoutStartUSec"))?;
    if !(waits(unit) || unit.shown.is("Type", "notify-reload")) || limit > steps {
        return None;
    }
    let what = format!("{limit:?}, and canary and soak take {steps:?}");
    Some(if limit <= ASKS_EVERY {
        Finding::problem(
            SUBJECT,
            format!(
                "{what}: systemd gives up before the server asks for more time, which it does every {ASKS_EVERY:?}"
            ),
            format!("TimeoutStartSec={}s", steps.as_secs().saturating_add(60)),
        )
    } else {
        Finding::note(
            SUBJECT,
            format!("{what}: that is enough only because the server asks for more time every {ASKS_EVERY:?}"),
            format!("TimeoutStartSec={}s", steps.as_secs().saturating_add(60)),
        )
    })
}
