//! The one error type of the library: opaque, with a kind.

use std::fmt;
use std::io;

/// An error of a server as a whole.
///
/// A reload that fails is no error: its result is an [`Outcome`](crate::Outcome), and the server serves on.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<io::Error>,
}

/// The kind of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An address cannot be understood, resolved or bound.
    Address,
    /// Another process already serves on the address.
    AlreadyRunning,
    /// The generation before this one refused to be replaced by it, because their addresses do not fit.
    Replacement,
    /// A value of the configuration makes no sense.
    Config,
    /// A certificate or a private key cannot be read, or the two do not belong together.
    Tls,
    /// The program that is to be run cannot be started: [`source`](std::error::Error::source) has the kind.
    Program,
    /// The first generation did not become ready.
    NotReady,
    /// The operating system refused an operation that is needed.
    System,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), source: None }
    }

    pub(crate) fn io(kind: ErrorKind, message: impl Into<String>, source: io::Error) -> Error {
        Error { kind, message: message.into(), source: Some(source) }
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
