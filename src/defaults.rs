//! The default values of the library and of the program.

use std::time::Duration;

/// How long a next generation may take to become ready.
pub const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the hook may take that makes the state for the next generation.
pub const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a probe of the next generation may take before it counts as failed.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the old generation can take all new connections back after the cut-over.
pub const SOAK: Duration = Duration::ZERO;
/// How long a retiring generation waits for handshakes in flight.
pub const LINGER: Duration = Duration::from_secs(5);
/// How long a kept-alive connection of a retiring generation may be idle.
pub const IDLE_GRACE: Duration = Duration::from_secs(10);
/// How long a retiring generation may take to finish its connections; under a [`Supervisor`](crate::Supervisor), how
/// long a generation that was told to stop may take to end.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an HTTP/1 client may take to send the header of a request.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest header of a request, in bytes.
pub const MAX_HEADER_SIZE: usize = 65_536;
/// The length of the accept queue, in connections.
pub const BACKLOG: u32 = 4096;
/// How many listening sockets each address has.
pub const LISTENERS_PER_ADDRESS: usize = 1;
/// The signal by which a [`Supervisor`](crate::Supervisor) tells a generation to stop.
pub const STOP_SIGNAL: &str = "TERM";
