//! A unit as systemd has loaded it, and the other facts that are needed to judge the unit.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::program::Serving;
use super::properties::Properties;
use crate::model::identity::Pid;

/// A unit, and the other facts that are needed to judge it.
#[derive(Debug, Clone)]
pub(in crate::doctor) struct Unit {
    /// The version of systemd.
    pub(in crate::doctor) version: u32,
    pub(in crate::doctor) shown: Properties,
    /// The settings in `[Service]` of the unit's files; the last value of each setting.
    pub(in crate::doctor) written: BTreeMap<String, String>,
    /// The program, if it is `cutover`.
    pub(in crate::doctor) serving: Option<Serving>,
    /// The addresses that the server listens on.
    pub(in crate::doctor) addresses: Vec<SocketAddr>,
    /// The first port that needs no capability.
    pub(in crate::doctor) first_unprivileged_port: u16,
    /// Programs that the unit starts and that do not exist.
    pub(in crate::doctor) missing: BTreeSet<String>,
    /// The effective user of the main process.
    pub(in crate::doctor) main_uid: Option<u32>,
}

impl Unit {
    /// A unit on a machine where nothing is missing.
    pub(in crate::doctor) fn new(version: u32, shown: Properties, written: BTreeMap<String, String>) -> Unit {
        let serving = shown.commands("ExecStart").iter().find_map(Serving::of);
        let addresses = serving.as_ref().map(|serving| serving.addresses.clone()).unwrap_or_default();
        let missing = BTreeSet::new();
        Unit { version, shown, written, serving, addresses, first_unprivileged_port: 1024, missing, main_uid: None }
    }

    pub(in crate::doctor) fn name(&self) -> &str {
        self.shown.one("Id")
    }

    /// The main process, if the unit runs.
    pub(in crate::doctor) fn main(&self) -> Option<Pid> {
        self.shown.one("MainPID").parse().ok().filter(|pid| *pid != 0).map(Pid::new)
    }

    /// The programs that the unit starts, as paths of this machine.
    pub(in crate::doctor) fn programs(&self) -> BTreeSet<String> {
        let elsewhere = ["RootDirectory", "RootImage"].iter().any(|key| !self.shown.one(key).is_empty());
        let lines = ["ExecStart", "ExecReload", "ExecStop"].iter().flat_map(|key| self.shown.commands(key));
        lines.filter(|_| !elsewhere).map(|command| command.path).collect()
    }

    /// Whether the unit has a network of its own, which cannot be examined from here.
    pub(in crate::doctor) fn is_elsewhere(&self) -> bool {
        self.shown.is("PrivateNetwork", "yes") || !self.shown.one("NetworkNamespacePath").is_empty()
    }

    /// Whether the unit runs as root.
    pub(in crate::doctor) fn is_root(&self) -> bool {
        matches!(self.shown.one("User"), "" | "root" | "0") && !self.shown.is("DynamicUser", "yes")
    }
}
