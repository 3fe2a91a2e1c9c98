//! `cutover run`: any program, generation after generation.

mod load;
mod workers;
