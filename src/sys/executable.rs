//! The file that a process executes, and the arguments that the process was started with (proc(5)).
#![expect(clippy::disallowed_methods, reason = "only a client looks, and its own command waits")]

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use super::during;
use crate::model::identity::Pid;

/// The file that the process executes, with every symlink followed. The kernel appends ` (deleted)` to the name of a file
/// that was removed, or replaced by rename, since then.
///
/// # Errors
/// `ENOENT` if the process is gone, `EACCES` if it belongs to another user.
pub(crate) fn of(pid: Pid) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).map_err(|e| during("read its executable", e))
}

/// The arguments of the process, the name (argv 0) included. A process may have overwritten its arguments.
///
/// # Errors
/// `ENOENT` if the process is gone.
pub(crate) fn arguments_of(pid: Pid) -> io::Result<Vec<OsString>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).map_err(|e| during("read its arguments", e))?;
    Ok(line.split(|byte| *byte == 0).map(|argument| OsString::from_vec(argument.to_vec())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_executes_this_test() {
        let own = Pid::new(std::process::id());
        let exe = std::env::current_exe().expect("known").canonicalize().expect("there");
        assert_eq!(of(own).expect("its own"), exe);
        let arguments: Vec<OsString> = std::env::args_os().collect();
        assert_eq!(arguments_of(own).expect("its own")[..arguments.len()], arguments);
        assert_eq!(of(Pid::new(0)).expect_err("none").kind(), io::ErrorKind::NotFound);
    }
}
