//! The content of a PID file: a process id, and the time of the file.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use super::error::{ControlError, ControlErrorKind};
use crate::model::identity::Pid;

/// The longest text that is read, in bytes: longer than any number.
const LENGTH_MAX: u64 = 64;

/// The process that a PID file names. The file cannot tell whether the number still belongs to that process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) pid: Pid,
    pub(super) written: SystemTime,
}

/// # Errors
/// [`NoInstance`](ControlErrorKind::NoInstance) if the file cannot be read, or names no process.
pub(super) fn read(path: &Path) -> Result<Named, ControlError> {
    let cannot_be_read = |error: io::Error| {
        let message = format!("the PID file {} cannot be read", path.display());
        ControlError::because(ControlErrorKind::NoInstance, message, error)
    };
    let (text, written) = text_of(path).map_err(cannot_be_read)?;
    let none =
        || ControlError::new(ControlErrorKind::NoInstance, format!("the PID file {} names no process", path.display()));
    Ok(Named { pid: parse(&text).ok_or_else(none)?, written })
}

/// The text and the modification time of one open file, because a server renames the next file over it.
fn text_of(path: &Path) -> io::Result<(String, SystemTime)> {
    let file = open_regular(path)?;
    let written = file.metadata()?.modified()?;
    let mut text = String::new();
    file.take(LENGTH_MAX).read_to_string(&mut text)?;
    Ok((text, written))
}

/// Opens a regular file, and nothing that open(2) or read(2) would wait for, or that has no end.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
    }
}

/// Parses the process id. Never 0 and nothing negative: for kill(2) these numbers mean groups of processes.
fn parse(text: &str) -> Option<Pid> {
    let number = text.split_whitespace().next()?;
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
    number.parse().ok().filter(|_| is_plain).map(Pid::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_number_names_a_process() {
        for (text, pid) in [("12\n", Some(12)), (" 12 server\n", Some(12)), ("4194304", Some(4_194_304))] {
            assert_eq!(parse(text), pid.map(Pid::new), "{text:?}");
        }
        for text in ["", "\n", "0\n", "012", "-1\n", "+1\n", "x", "1x", "99999999999"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("server.pid");
        let says = |words: &str| {
            let error = read(&path).expect_err(words);
            assert_eq!(error.kind(), ControlErrorKind::NoInstance);
            assert!(error.to_string().contains(words) && error.to_string().contains("server.pid"), "{error}");
        };
        says("cannot be read");
        let fifo = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, fifo, 0).expect("a FIFO");
        says("cannot be read");
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "nobody\n").expect("written");
        says("names no process");
        std::fs::write(&path, "12\n").expect("written");
        let written = std::fs::metadata(&path).and_then(|file| file.modified()).expect("a time");
        assert_eq!(read(&path).expect("a process"), Named { pid: Pid::new(12), written });
    }
}
