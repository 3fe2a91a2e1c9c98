//! What must be true of a restart, without I/O and without a clock: time is an argument everywhere.

pub(crate) mod addresses;
pub(crate) mod event;
pub(crate) mod frames;
pub(crate) mod handover;
pub(crate) mod identity;
pub(crate) mod instance_name;
pub(crate) mod latency;
pub(crate) mod pipeline;
pub(crate) mod probe;
pub(crate) mod progress;
pub(crate) mod rollout;
pub(crate) mod sd_notify;
pub(crate) mod seconds;
pub(crate) mod share;
pub(crate) mod slots;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod steering;
#[cfg(feature = "tls")]
pub(crate) mod ticket_keys;
pub(crate) mod unix_address;
