//! What the Linux kernel is asked for. Every unsafe block of the project stands in this folder.

pub(crate) mod age;
pub(crate) mod anchor;
pub(crate) mod cgroup;
pub(crate) mod control_folder;
pub(crate) mod control_socket;
pub(crate) mod credentials;
pub(crate) mod diag;
pub(crate) mod executable;
mod exit_info;
pub(crate) mod kernel;
pub(crate) mod knock;
pub(crate) mod lend;
pub(crate) mod limits;
pub(crate) mod netlink;
pub(crate) mod notify_socket;
pub(crate) mod origin;
pub(crate) mod owner;
pub(crate) mod process;
pub(crate) mod rcu;
pub(crate) mod reaper;
mod signals;
mod signature;
pub(crate) mod socket;
pub(crate) mod spawn;
pub(crate) mod steering;
pub(crate) mod terminal;
pub(crate) mod tree;

/// Puts the operation and its object before the system's own words, and keeps the kind.
pub(crate) fn during(what: impl std::fmt::Display, error: impl Into<std::io::Error>) -> std::io::Error {
    let error = error.into();
    std::io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod again;
#[cfg(test)]
mod slots_tests;
#[cfg(test)]
mod split_tests;
