//! The verbs of the program, which reach an instance by its control socket or by its PID file.

mod pid_file;
mod reload;
mod reload_ends;
mod status;
mod steer;
mod stop;
mod target;
