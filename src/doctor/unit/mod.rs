//! A unit of systemd, looked at with the eyes of a server that restarts itself. Pure: from what systemd shows to findings.

mod program;
mod properties;
mod reload;
mod sandbox;
mod service;
mod stop;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::finding::Finding;
use crate::model::identity::Pid;

pub(super) use program::Serving;
pub(super) use properties::{Properties, leading_number, written};

/// What is asked of `systemctl show`. One that its version does not know it leaves out.
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

/// A unit, and what else has to be known to judge it.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    /// Of systemd.
    pub(super) version: u32,
    pub(super) shown: Properties,
    /// What its files say in `[Service]`, the last word of each.
    pub(super) written: BTreeMap<String, String>,
    /// The program, if it is `cutover`.
    pub(super) serving: Option<Serving>,
    /// Where the server listens.
    pub(super) addresses: Vec<SocketAddr>,
    /// The first port that needs no capability.
    pub(super) first_unprivileged_port: u16,
    /// Programs of its lines that are not there.
    pub(super) missing: BTreeSet<String>,
    /// The effective user of the main process.
    pub(super) main_uid: Option<u32>,
}

impl Unit {
    /// A unit on a machine where nothing is missing.
    pub(super) fn new(version: u32, shown: Properties, written: BTreeMap<String, String>) -> Unit {
        let serving = shown.commands("ExecStart").iter().find_map(Serving::of);
        let addresses = serving.as_ref().map(|serving| serving.addresses.clone()).unwrap_or_default();
        let missing = BTreeSet::new();
        Unit { version, shown, written, serving, addresses, first_unprivileged_port: 1024, missing, main_uid: None }
    }

    pub(super) fn name(&self) -> &str {
        self.shown.one("Id")
    }

    /// The main process, if it runs.
    pub(super) fn main(&self) -> Option<Pid> {
        self.shown.one("MainPID").parse().ok().filter(|pid| *pid != 0).map(Pid::new)
    }

    /// The programs that it starts, as paths of this machine.
    pub(super) fn programs(&self) -> BTreeSet<String> {
        let elsewhere = ["RootDirectory", "RootImage"].iter().any(|key| !self.shown.one(key).is_empty());
        let lines = ["ExecStart", "ExecReload", "ExecStop"].iter().flat_map(|key| self.shown.commands(key));
        lines.filter(|_| !elsewhere).map(|command| command.path).collect()
    }

    /// Whether it has a network of its own, which cannot be looked at from here.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.shown.is("PrivateNetwork", "yes") || !self.shown.one("NetworkNamespacePath").is_empty()
    }

    /// Whether it runs as root.
    fn is_root(&self) -> bool {
        matches!(self.shown.one("User"), "" | "root" | "0") && !self.shown.is("DynamicUser", "yes")
    }
}

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
        let what = "its files were changed, and systemd has not read them yet: this is what was there before";
        Finding::note(unit.name(), what, "systemctl daemon-reload, then look again")
    })
}

fn missing(unit: &Unit) -> Vec<Finding> {
    let lines = ["ExecStart", "ExecReload", "ExecStop"];
    let all = lines.iter().flat_map(|line| unit.shown.commands(line).into_iter().map(move |command| (line, command)));
    let gone = all.filter(|(_, command)| unit.missing.contains(&command.path));
    let finding = |(line, command): (&&str, properties::Command)| {
        let fix = match command.path.as_str() {
            "/bin/kill" | "/usr/bin/kill" => "install it (Debian: procps), or ExecReload=cutover reload".to_owned(),
            path => format!("put a program at {path}, or name the one that is there"),
        };
        Finding::problem(*line, format!("{} is not there", command.path), fix)
    };
    gone.map(finding).collect()
}

#[cfg(test)]
mod tests;
