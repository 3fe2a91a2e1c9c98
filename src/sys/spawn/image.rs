//! The input of exec: the program, its arguments, its environment, its directory, and its process group.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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
        })
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
