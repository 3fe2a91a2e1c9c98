//! Whether this process may steer.

use crate::sys::launch::Launch;

/// Whether steering may be tried at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steering {
    Allowed,
    /// Turned off by `CUTOVER_STEERING=off`, so that tests can run both ways.
    Off,
    /// It is done by whoever has started this process, and whoever comes after it.
    Elsewhere,
}

impl Steering {
    /// What the environment says that this process was started with.
    pub(crate) fn of(launch: &Launch) -> Steering {
        match launch.variable("CUTOVER_STEERING") {
            Some(value) if value == "off" => Steering::Off,
            _ => Steering::Allowed,
        }
    }
}
