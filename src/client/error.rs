//! The error type of the control client: opaque, with a kind.

use std::fmt;

/// Why an instance could not be reached, or did not do what was requested.
///
/// A reload that was rolled back is no error: its result is an [`Outcome`](crate::Outcome).
#[derive(Debug)]
pub struct ControlError {
    kind: ControlErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The kind of a [`ControlError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlErrorKind {
    /// No such instance runs.
    NoInstance,
    /// Several instances run, and none was named. The message lists them.
    Several,
    /// The text cannot be the name of an instance.
    Name,
    /// The instance belongs to another user.
    Denied,
    /// The request cannot be carried out now; the message says why.
    Refused,
    /// No answer came, or the connection ended before the outcome: the process died, or hangs.
    Lost,
    /// The answer of the instance was not understood.
    Protocol,
    /// The operating system refused an operation that is needed.
    System,
}

impl ControlError {
    pub(super) fn new(kind: ControlErrorKind, message: impl Into<String>) -> ControlError {
        ControlError { kind, message: message.into(), source: None }
    }

    pub(super) fn because(
        kind: ControlErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ControlError {
        ControlError { kind, message: message.into(), source: Some(source.into()) }
    }

    /// The kind of the error.
    pub fn kind(&self) -> ControlErrorKind {
        self.kind
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ControlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
