//! One file per promise, on real processes and real sockets.

mod load_counts;
mod nothing_lost;
mod support;
