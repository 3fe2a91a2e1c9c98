//! A server that restarts without losing a single request.
//!
//! On SIGHUP the running process (*blue*) starts a fresh copy of its binary (*green*), which binds the same addresses
//! with SO_REUSEPORT. Green reports that it is ready. A classic BPF program then moves all new connections to green at
//! once. Blue accepts the connections in flight, finishes its open connections, and ends. No descriptor is handed over,
//! and no privilege is needed.
//!
//! ```no_run
//! # async fn example() -> Result<(), cutover::Error> {
//! let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
//! cutover::Server::bind("127.0.0.1:8080").serve(app).await
//! # }
//! ```
//!
//! `kill -HUP` the process, and the file that it was started from is started anew. Without HTTP, [`Server::listen`]
//! serves plain TCP.
//!
//! Linux only. The process must keep the path that it was started by (its argv 0), and must not ignore SIGCHLD.

// Calls that may wait for something outside of this program: clippy.toml.
#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr))]

mod client;
mod config;
pub mod control;
pub mod defaults;
pub mod doctor;
mod error;
mod model;
mod runtime;
mod server;
mod supervisor;
mod sys;

pub use error::{Error, ErrorKind};
pub use model::event::{Event, Outcome, Phase};
pub use model::identity::{Generation, Pid};
pub use model::share::{InvalidShare, Share};
pub use runtime::bind::BindAddress;
pub use runtime::log_writer::LogWriter;
pub use runtime::stream::Stream;
pub use server::connection_info::ConnectionInfo;
#[cfg(feature = "tls")]
pub use server::connection_info::TlsInfo;
pub use server::drain::Drain;
pub use server::events::Events;
pub use server::fail_start::fail_start;
pub use server::handle::Handle;
pub use server::http::Http2Builder;
pub use server::inherit::Inherited;
pub use server::listener::Listener;
#[cfg(feature = "tls")]
pub use server::tls::TlsConfig;
pub use server::{Server, Started};
pub use supervisor::Supervisor;
pub use supervisor::settings::ReadyWhen;

/// The Rust code of the documents, which `cargo test` builds.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/library.md")]
    mod library {}
}
