//! What exec is given: the program, its arguments, its environment, its directory, and its process group.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::sys::launch::Launch;

/// The process group that a child begins in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// A new one, which has the child's pid as its number: a signal to it reaches the child and what that starts, and a
    /// Ctrl-C on a terminal does not reach it.
    Own,
    /// That of this process.
    Ours,
}

/// What exec is given.
pub(super) struct Image {
    pub(super) program: CString,
    pub(super) arguments: Pointers,
    pub(super) environment: Pointers,
    pub(super) directory: Option<CString>,
}

impl Image {
    /// As this process was started.
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
    pub(super) array: Vec<*mut libc::c_char>,
    _strings: Vec<CString>,
}

impl Pointers {
    pub(super) fn to(strings: impl Iterator<Item = Vec<u8>>) -> io::Result<Pointers> {
        let strings = strings.map(CString::new).collect::<Result<Vec<_>, _>>()?;
        // posix_spawn(3) takes them as mutable, and does not change them.
        let array = strings.iter().map(|s| s.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect();
        Ok(Pointers { array, _strings: strings })
    }
}
