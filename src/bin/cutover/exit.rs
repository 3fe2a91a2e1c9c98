//! How a verb ends: with an exit code of sysexits.h, and a line on stderr that says why.

use std::fmt;
use std::future::Future;
use std::io::Write as _;
use std::process::ExitCode;

use cutover::control::{ControlError, ControlErrorKind};

/// The exit code for a check that found a problem.
pub(crate) const PROBLEM: u8 = 1;
/// The exit code of a server that cannot begin.
pub(crate) const CANNOT_BEGIN: u8 = 1;
pub(crate) const USAGE: u8 = 64;
pub(crate) const UNAVAILABLE: u8 = 69;
pub(crate) const BUG: u8 = 70;
pub(crate) const OUTPUT: u8 = 74;
pub(crate) const TRY_AGAIN: u8 = 75;
pub(crate) const NO_PERMISSION: u8 = 77;
/// The exit code of shells for a program that exists and cannot be executed.
pub(crate) const CANNOT_EXECUTE: u8 = 126;
pub(crate) const NOT_FOUND: u8 = 127;

/// Why a verb did not do what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }

    /// stdout has no reader any more. This is no failure of this program, and no message would be read.
    fn unread() -> Failure {
        Failure::new(0, "")
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Failure {
        let code = match error.kind() {
            ControlErrorKind::Several | ControlErrorKind::Name => USAGE,
            ControlErrorKind::Refused => TRY_AGAIN,
            ControlErrorKind::Denied => NO_PERMISSION,
            ControlErrorKind::Protocol => BUG,
            _ => UNAVAILABLE,
        };
        Failure::new(code, with_cause(&error))
    }
}

/// An error and its causes, in one line.
pub(crate) fn with_cause(error: &ControlError) -> String {
    let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{cause}")
}

/// Runs a verb that sends requests to an instance. One thread is enough, and starts at once.
pub(crate) fn run(verb: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot watch for events: {error}"));
            return ExitCode::from(UNAVAILABLE);
        }
    };
    match runtime.block_on(verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message }) => {
            if !message.is_empty() {
                complain(message);
            }
            ExitCode::from(code)
        }
    }
}

/// Writes a line to stderr. If stderr is closed, only the exit code reports the failure.
pub(crate) fn complain(message: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{message}");
}

/// Writes to stdout, all at once.
///
/// # Errors
/// Ends the verb quietly if stdout has no reader any more.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::unread(),
        _ => Failure::new(OUTPUT, format!("cannot write to stdout: {error}")),
    })
}

/// Writes a line to stdout that says what was done. An error is ignored, because the action was done all the same.
pub(crate) fn say(line: impl fmt::Display) {
    let _ = print(&format!("{line}\n"));
}
