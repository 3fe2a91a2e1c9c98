//! A rollout, its steps, and what ends one: bad generations, canary, soak, probe, rollback, signals.

mod bad_green;
mod canary;
mod deaths;
mod events;
mod probe;
mod rollback;
mod signals;
mod soak;
mod state;
mod term_in_a_rollout;
