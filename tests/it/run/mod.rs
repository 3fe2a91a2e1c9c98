//! `cutover run`: any program, generation after generation.

mod bad_next;
mod churn;
mod deferred;
mod ending;
mod init;
mod load;
mod manager;
mod output;
mod preflight;
mod ready;
mod side_by_side;
mod signals;
mod start;
mod strangers;
mod terminal;
mod unix_sockets;
mod users;
mod verbs;
mod workers;
