//! `cutover run`: any program, generation after generation.

mod bad_next;
mod load;
mod preflight;
mod start;
