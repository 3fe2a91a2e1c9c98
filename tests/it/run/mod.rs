//! `cutover run`: any program, generation after generation.

mod bad_next;
mod ending;
mod init;
mod load;
mod manager;
mod output;
mod preflight;
mod ready;
mod signals;
mod start;
mod terminal;
mod users;
mod verbs;
mod workers;
