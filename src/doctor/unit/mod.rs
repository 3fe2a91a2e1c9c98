//! Checks of a systemd unit for a server that restarts itself. No I/O: from what systemd shows to findings.

mod loaded;
mod program;
mod properties;
mod reload;
mod sandbox;
mod service;
mod stop;

use super::finding::Finding;

pub(super) use loaded::Unit;
pub(super) use properties::{Properties, leading_number, written};

/// The properties to ask `systemctl show` for. A version of systemd leaves out properties that it does not know.
pub(super) const PROPERTIES: [&str; 42] = [
    "Id",
    "LoadState",
    "LoadError",
    "ActiveState",
    "NeedDaemonReload",
    "MainPID",
    "Type",
    "NotifyAccess",
    "PIDFile",
    "Restart",
    "WatchdogUSec",
    "TimeoutStartUSec",
    "TimeoutStopUSec",
    "ReloadSignal",
    "KillMode",
    "KillSignal",
    "ExecStart",
    "ExecStartEx",
    "ExecReload",
    "ExecStop",
    "User",
    "DynamicUser",
    "PrivateUsers",
    "Environment",
    "AmbientCapabilities",
    "CapabilityBoundingSet",
    "RestrictAddressFamilies",
    "SystemCallFilter",
    "SystemCallErrorNumber",
    "ProtectSystem",
    "PrivateTmp",
    "ReadWritePaths",
    "RuntimeDirectory",
    "StateDirectory",
    "CacheDirectory",
    "LogsDirectory",
    "RootDirectory",
    "RootImage",
    "PrivateNetwork",
    "NetworkNamespacePath",
    "LimitNOFILESoft",
    "MemoryMax",
];

/// All findings about a unit.
pub(super) fn lint(unit: &Unit) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(unit.name(), format!("loaded by systemd {}", unit.version))];
    findings.extend(stale(unit));
    findings.extend(missing(unit));
    findings.extend(service::findings(unit));
    findings.extend(reload::findings(unit));
    findings.extend(stop::findings(unit));
    findings.extend(sandbox::findings(unit));
    findings
}

fn stale(unit: &Unit) -> Option<Finding> {
    unit.shown.is("NeedDaemonReload", "yes").then(|| {
        let what =
            "the unit's files were changed, and systemd has not read them yet: these findings are about the old files";
        Finding::note(unit.name(), what, "systemctl daemon-reload, then run cutover doctor again")
    })
}

fn missing(unit: &Unit) -> Vec<Finding> {
    let lines = ["ExecStart", "ExecReload", "ExecStop"];
    let all = lines.iter().flat_map(|line| unit.shown.commands(line).into_iter().map(move |command| (line, command)));
    let gone = all.filter(|(_, command)| unit.missing.contains(&command.path));
    let finding = |(line, command): (&&str, properties::Command)| {
        let fix = match command.path.as_str() {
            "/bin/kill" | "/usr/bin/kill" => {
                "install kill(1) (Debian: procps), or ExecReload=cutover reload".to_owned()
            }
            path => format!("install a program at {path}, or correct the path"),
        };
        Finding::problem(*line, format!("{} does not exist", command.path), fix)
    };
    gone.map(finding).collect()
}

#[cfg(test)]
mod tests;
