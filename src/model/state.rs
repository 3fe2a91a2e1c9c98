//! The state that an application hands to its next generation.

/// The largest state, in bytes.
pub(crate) const STATE_MAX: usize = 64 << 20;
