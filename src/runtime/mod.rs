//! The effects and the sources of events, on tokio: one in each file.

pub(crate) mod accept;
pub(crate) mod bind;
pub(crate) mod connections;
pub(crate) mod context;
pub(crate) mod control;
pub(crate) mod driver;
pub(crate) mod effects;
pub(crate) mod group_watch;
pub(crate) mod groups;
pub(crate) mod heartbeat;
pub(crate) mod host;
pub(crate) mod input;
pub(crate) mod instance;
mod local_address;
pub(crate) mod log_writer;
pub(crate) mod notifier;
pub(crate) mod offload;
pub(crate) mod pid_file;
pub(crate) mod plan;
pub(crate) mod port_conflicts;
pub(crate) mod predecessors;
pub(crate) mod probe;
#[cfg(feature = "tls")]
mod probe_tls;
pub(crate) mod requests;
pub(crate) mod retire;
pub(crate) mod role;
pub(crate) mod service_manager;
pub(crate) mod status;
pub(crate) mod stream;
