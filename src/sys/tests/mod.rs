//! The models against the real kernel.

mod slots;
mod split;
