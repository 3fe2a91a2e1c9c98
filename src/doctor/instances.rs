//! The living instances of this machine: found by their control sockets, and by the main process of the unit.
#![expect(clippy::disallowed_methods, reason = "the doctor blocks, and says so")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::model::identity::Pid;
use crate::model::instance_name;
use crate::sys::control_folder::RuntimeDirs;
use crate::sys::control_socket::living;

/// The processes that are known to be instances.
#[derive(Debug, Default)]
pub(super) struct Instances {
    names: BTreeMap<Pid, String>,
    /// Users with instances whose listeners, or control sockets, this user may not look at.
    hidden: BTreeSet<u32>,
}

impl Instances {
    /// Looks in all folders that a client looks in. Does not wait.
    pub(super) fn find() -> Instances {
        let runtime_dirs = RuntimeDirs::new(|variable| std::env::var_os(variable));
        let mut found = Instances::default();
        for folder in runtime_dirs.candidates() {
            let Ok(entries) = fs::read_dir(&folder) else {
                found.hide(&folder);
                continue;
            };
            for entry in entries.flatten() {
                if let Some(name) = entry.file_name().to_str().and_then(instance_name::of_file) {
                    found.look_at(name, &entry.path());
                }
            }
        }
        found
    }

    fn look_at(&mut self, name: &str, path: &Path) {
        match living(path) {
            Some(Some(pid)) => self.add(pid, format!("the instance {name}"), None),
            Some(None) => {}
            None => self.hide(path),
        }
    }

    /// A process may well listen on a control socket that this user may not write to.
    fn hide(&mut self, path: &Path) {
        let own = rustix::process::geteuid();
        if let Ok(file) = fs::symlink_metadata(path)
            && file.uid() != own.as_raw()
            && !own.is_root()
        {
            self.hidden.insert(file.uid());
        }
    }

    /// Adds a known instance. With a `uid`, listeners of that user may be its own, though this user may not see that.
    pub(super) fn add(&mut self, pid: Pid, name: String, uid: Option<u32>) {
        self.names.entry(pid).or_insert(name);
        self.hidden.extend(uid);
    }

    pub(super) fn has(&self, pid: Pid) -> bool {
        self.names.contains_key(&pid)
    }

    pub(super) fn name(&self, pid: Pid) -> Option<String> {
        self.names.get(&pid).cloned()
    }

    /// Whether a user has instances that this user may not look at.
    pub(super) fn hidden(&self, uid: u32) -> bool {
        self.hidden.contains(&uid)
    }

    #[cfg(test)]
    pub(super) fn known(pids: &[u32], hidden: &[u32]) -> Instances {
        let names = pids.iter().map(|pid| (Pid::new(*pid), format!("the instance of {pid}"))).collect();
        Instances { names, hidden: hidden.iter().copied().collect() }
    }
}
