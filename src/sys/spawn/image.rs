//! The input of exec: the program, its arguments, its environment, its directory, and its process group.

use std::cell::Cell;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::Pid;

use crate::sys::launch::Launch;

/// The process group that a child begins in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// A new group, whose number is the child's pid: a signal to the group reaches the child and the processes that the
    /// child starts, and a Ctrl-C on a terminal does not reach the group.
    Own,
    /// The group that this process was started in.
    Ours,
}

/// The input of exec.
pub(super) struct Image {
    pub(super) program: CString,
    pub(super) arguments: Pointers,
    pub(super) environment: Pointers,
    pub(super) directory: Option<CString>,
    /// The variable of the environment that has the child's own pid.
    pub(super) own_pid: Option<Box<OwnPid>>,
}

impl Image {
    /// The image of `path`, started as `launch` describes, without the variables `removed` and with the variables
    /// `added`.
    pub(super) fn of(launch: &Launch, path: &Path, removed: &[&str], added: &[(&str, OsString)]) -> io::Result<Image> {
        let kept = launch.environment.iter().filter(|(key, _)| !removed.iter().any(|name| key == name));
        let kept = kept.map(|(key, value)| (key.as_os_str(), value.as_os_str()));
        let environment = kept.chain(added.iter().map(|(key, value)| (OsStr::new(key), value.as_os_str())));
        Image::new(path, &launch.arguments, environment, launch.directory.as_deref())
    }

    pub(super) fn new<'a>(
        path: &Path,
        arguments: &[OsString],
        environment: impl Iterator<Item = (&'a OsStr, &'a OsStr)>,
        directory: Option<&Path>,
    ) -> io::Result<Image> {
        let environment = environment.map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()].concat());
        Ok(Image {
            program: CString::new(path.as_os_str().as_bytes())?,
            arguments: Pointers::to(arguments.iter().map(|argument| argument.as_bytes().to_vec()))?,
            environment: Pointers::to(environment)?,
            directory: directory.map(|path| CString::new(path.as_os_str().as_bytes())).transpose()?,
            own_pid: None,
        })
    }

    /// Adds LISTEN_PID to the environment, by which a process knows that LISTEN_FDS is meant for itself (sd_listen_fds(3)).
    pub(super) fn with_own_pid(mut self) -> Image {
        let own_pid = self.own_pid.insert(Box::default());
        let end = self.environment.array.len() - 1;
        self.environment.array.insert(end, own_pid.0.as_ptr().cast_const().cast());
        self
    }
}

const LISTEN_PID: &[u8] = b"LISTEN_PID=";
/// Room for the name, the digits of a pid, and a null byte.
const OWN_PID: usize = LISTEN_PID.len() + 11;

/// A variable that the child itself writes, because only the child knows its pid.
pub(super) struct OwnPid(Cell<[u8; OWN_PID]>);

impl Default for OwnPid {
    fn default() -> OwnPid {
        OwnPid(Cell::new([0; OWN_PID]))
    }
}

impl OwnPid {
    /// Runs in the child: no allocation, no panic.
    pub(super) fn set(&self, pid: Pid) {
        let mut text = [0; OWN_PID];
        let (name, digits) = text.split_at_mut(LISTEN_PID.len());
        name.copy_from_slice(LISTEN_PID);
        let mut rest = pid.as_raw_nonzero().get().unsigned_abs();
        let length = rest.checked_ilog10().unwrap_or(0) as usize + 1;
        for digit in digits.iter_mut().take(length).rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        self.0.set(text);
    }
}

/// C strings, and an array of pointers to them that ends in a null pointer.
pub(super) struct Pointers {
    pub(super) array: Vec<*const libc::c_char>,
    pub(super) strings: Vec<CString>,
}

impl Pointers {
    pub(super) fn to(strings: impl Iterator<Item = Vec<u8>>) -> io::Result<Pointers> {
        let strings = strings.map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let array = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Ok(Pointers { array, strings })
    }
}
