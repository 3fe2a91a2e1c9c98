//! One file per promise, on real processes and real sockets.

mod addresses;
mod bad_green;
mod canary;
mod control;
mod deaths;
mod deploy;
mod drain;
mod events;
mod layering;
mod limits;
mod load_counts;
mod metrics;
mod nothing_lost;
mod origin;
mod probe;
mod rollback;
mod signals;
mod soak;
mod support;
mod term_in_a_rollout;
mod unsteered;
mod wan;
