//! Requests to the Linux kernel. Every `unsafe` block of the project is in this folder.

mod affinity;
pub(crate) mod attributes;
pub(crate) mod cgroup;
pub(crate) mod control_folder;
pub(crate) mod control_socket;
pub(crate) mod credentials;
pub(crate) mod executable;
mod exit_info;
pub(crate) mod launch;
pub(crate) mod limits;
pub(crate) mod membarrier;
pub(crate) mod netlink;
pub(crate) mod notify_socket;
pub(crate) mod pidfd_getfd;
pub(crate) mod placeholder;
pub(crate) mod process;
pub(crate) mod process_age;
pub(crate) mod process_tree;
pub(crate) mod reaper;
mod signals;
pub(crate) mod slot_probe;
pub(crate) mod sock_diag;
pub(crate) mod socket;
pub(crate) mod socket_owner;
pub(crate) mod spawn;
pub(crate) mod steering;
pub(crate) mod sysctl;
mod tcp_md5;
pub(crate) mod terminal;
pub(crate) mod unix_listener;
mod unix_socket;

/// Puts the operation and its object before the message of the system's error, and keeps the error's kind.
pub(crate) fn during(what: impl std::fmt::Display, error: impl Into<std::io::Error>) -> std::io::Error {
    let error = error.into();
    std::io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
pub(crate) mod reexec;
#[cfg(test)]
mod tests;
