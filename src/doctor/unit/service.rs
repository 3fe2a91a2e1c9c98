//! The interface between the unit and the server: readiness, the main process, the watchdog; and the limits for a
//! second generation.

use std::time::Duration;

use super::Unit;
use super::properties::time_span;
use crate::doctor::capacity::judge_descriptors;
use crate::doctor::finding::Finding;
use crate::sys::limits::Descriptors;

/// The first version of systemd with Type=notify-reload.
const NOTIFY_RELOAD: u32 = 253;
/// With a shorter watchdog timeout, a server on a busy machine may be mistaken for one that hangs.
const WATCHDOG_MIN: Duration = Duration::from_secs(1);

pub(super) fn findings(unit: &Unit) -> Vec<Finding> {
    let of_type = [kind(unit), notify_access(unit)];
    let others = [pid_file(unit), watchdog(unit), Some(restart(unit)), descriptors(unit), memory(unit)];
    of_type.into_iter().chain(others.into_iter().flatten()).collect()
}

/// Whether the files ask for a type that this version of systemd does not know.
fn unknown_type(unit: &Unit) -> bool {
    unit.written.get("Type").is_some_and(|kind| kind == "notify-reload") && unit.version < NOTIFY_RELOAD
}

fn kind(unit: &Unit) -> Finding {
    const SUBJECT: &str = "Type";
    if unknown_type(unit) {
        let what = format!(
            "systemd {} does not know notify-reload ({NOTIFY_RELOAD} does), uses {} instead, and does not wait for \
             READY=1",
            unit.version,
            unit.shown.one("Type")
        );
        return Finding::problem(SUBJECT, what, "Type=notify");
    }
    match unit.shown.one("Type") {
        "notify" | "notify-reload" => Finding::ok(
            SUBJECT,
            format!("{}: systemd takes the server for started when it listens", unit.shown.one("Type")),
        ),
        other => Finding::problem(
            SUBJECT,
            format!("{other}: systemd takes the server for started before it listens, or even if it fails to start"),
            "Type=notify",
        ),
    }
}

fn notify_access(unit: &Unit) -> Finding {
    const SUBJECT: &str = "NotifyAccess";
    match unit.shown.one("NotifyAccess") {
        access @ ("main" | "exec") => {
            Finding::ok(SUBJECT, format!("{access}: the old generation tells systemd the next main process"))
        }
        "all" => Finding::note(
            SUBJECT,
            "all: any process of the unit may say that it is ready, or name another main process",
            "NotifyAccess=main",
        ),
        _ => Finding::problem(
            SUBJECT,
            "none: systemd is not told which process is the main process after a reload, and ends the service",
            "NotifyAccess=main",
        ),
    }
}

fn pid_file(unit: &Unit) -> Option<Finding> {
    let file = Some(unit.shown.one("PIDFile")).filter(|file| !file.is_empty())?;
    let kills = super::reload::kills(unit);
    Some(if kills {
        Finding::problem(
            "PIDFile",
            format!(
                "systemd reads {file} when the kill of ExecReload= is done, which is before the next generation is live, \
                 and sets the main process back to the old process"
            ),
            "remove PIDFile=; --pid-file is for scripts",
        )
    } else {
        Finding::note(
            "PIDFile",
            format!("systemd has the main process from two sources, {file} and MAINPID="),
            "remove PIDFile=; --pid-file is for scripts",
        )
    })
}

fn watchdog(unit: &Unit) -> Option<Finding> {
    const SUBJECT: &str = "WatchdogSec";
    // Before the unit is started, systemd shows no watchdog timeout.
    let shown = unit.shown.time("WatchdogUSec").filter(|time| *time != Duration::MAX);
    let time = shown.or_else(|| time_span(unit.written.get("WatchdogSec")?));
    let time = time.filter(|time| !time.is_zero() && *time != Duration::MAX)?;
    Some(if time < WATCHDOG_MIN {
        let what = format!("{time:?}: on a busy machine systemd may take the server for one that hangs, and kill it");
        Finding::problem(SUBJECT, what, "WatchdogSec=10s, or more than 1 s at the least")
    } else {
        Finding::ok(SUBJECT, format!("{time:?}: the live generation sends WATCHDOG=1 three times as often"))
    })
}

fn restart(unit: &Unit) -> Finding {
    const SUBJECT: &str = "Restart";
    match unit.shown.one("Restart") {
        value @ ("no" | "" | "on-success") => {
            Finding::note(SUBJECT, format!("{value}: a server that crashed stays down"), "Restart=on-failure")
        }
        value => Finding::ok(SUBJECT, format!("{value}: a server that crashed is started again")),
    }
}

/// The limit of descriptors. For a unit that runs, its process is examined instead.
fn descriptors(unit: &Unit) -> Option<Finding> {
    if unit.main().is_some() {
        return None;
    }
    let limit = unit.shown.shown("LimitNOFILESoft")?.parse().ok();
    Some(judge_descriptors("the unit", Descriptors { limit, open: None }))
}

fn memory(unit: &Unit) -> Option<Finding> {
    let limit: u64 = unit.shown.one("MemoryMax").parse().ok().filter(|limit| *limit != u64::MAX)?;
    unit.main().is_none().then(|| {
        let what = format!(
            "{} MiB for both generations of a reload; how much they need is known only when the unit runs",
            limit >> 20
        );
        Finding::note("MemoryMax", what, "run cutover doctor again when the unit runs")
    })
}
