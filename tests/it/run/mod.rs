//! `cutover run`: any program, generation after generation.

mod load;
mod side_by_side;
mod strangers;
mod workers;
