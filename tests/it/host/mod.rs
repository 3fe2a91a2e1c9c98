//! The host of a server: the service manager, the terminal, and what the first generation was started with.

mod foreground;
mod inherit;
mod origin;
mod service_manager;
mod terminal;
