//! The effects and the sources of events, on tokio: one a file.

pub(crate) mod accept;
pub(crate) mod birth;
pub(crate) mod connections;
pub(crate) mod driver;
pub(crate) mod effects;
pub(crate) mod green;
pub(crate) mod groups;
pub(crate) mod handover;
pub(crate) mod pid_file;
pub(crate) mod predecessors;
#[allow(dead_code, reason = "a rollout that probes uses it")]
pub(crate) mod probe;
#[cfg(feature = "tls")]
mod probe_tls;
pub(crate) mod retire;
pub(crate) mod service_manager;
pub(crate) mod signals;
pub(crate) mod stream;
pub(crate) mod watch_groups;
