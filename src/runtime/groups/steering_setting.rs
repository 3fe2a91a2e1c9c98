//! Whether this process may steer.

use crate::sys::launch::Launch;

/// Whether steering may be tried at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steering {
    Allowed,
    /// Turned off by `CUTOVER_STEERING=off`, so that tests can run both ways.
    Off,
    /// The steering is done by the process that started this one, and by the successors of that process.
    Elsewhere,
}

impl Steering {
    /// The setting in the environment that this process was started with.
    pub(crate) fn of(launch: &Launch) -> Steering {
        match launch.variable("CUTOVER_STEERING") {
            Some(value) if value == "off" => Steering::Off,
            _ => Steering::Allowed,
        }
    }
}
