//! `cutover run`: any program, generation after generation.

mod bad_next;
mod ending;
mod load;
mod preflight;
mod signals;
mod start;
