//! The control socket from Rust: the client [`Control`], the status of an instance, and the progress of a reload.
//!
//! Each server with a control socket, whether it is a [`Server`](crate::Server), a [`Supervisor`](crate::Supervisor) or
//! the program `cutover`, answers HTTP on a Unix socket. [`Control`] is a client of that interface; this module also
//! has the types of the answers. For a server without a control socket there is [`ServerProcess`].

pub use crate::client::{Control, ControlError, ControlErrorKind, FollowUntil, ReloadProgress, ServerProcess};
pub use crate::model::progress::Progress;
pub use crate::model::status::{ConnectionKinds, GenerationStatus, LastReload, RolloutStatus, Status};
pub use crate::model::steering::SteeringMode;
