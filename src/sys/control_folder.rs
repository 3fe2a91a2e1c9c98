//! The folders of control sockets: the folder that a server puts its own socket into, and the folders that a client
//! looks in.
#![expect(clippy::disallowed_methods, reason = "only a client looks, and a server before it serves")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::during;

/// The folder of the system's services.
const OF_THE_SYSTEM: &str = "/run/cutover";

/// `sun_path` of `struct sockaddr_un` has 108 bytes, the last of which is 0 (unix(7)).
const PATH_MAX: usize = 107;

/// The settings that decide in which folders control sockets are.
#[derive(Debug, Clone)]
pub(crate) struct RuntimeDirs {
    /// The first folder in `RUNTIME_DIRECTORY` of systemd.exec(5).
    runtime: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR/cutover`.
    of_the_user: Option<PathBuf>,
    of_the_system: PathBuf,
    is_root: bool,
}

impl RuntimeDirs {
    /// The settings of this process; `variable` returns the value of an environment variable.
    pub(crate) fn new(variable: impl Fn(&str) -> Option<OsString>) -> RuntimeDirs {
        RuntimeDirs::with(variable, rustix::process::geteuid().is_root(), OF_THE_SYSTEM.into())
    }

    fn with(variable: impl Fn(&str) -> Option<OsString>, is_root: bool, of_the_system: PathBuf) -> RuntimeDirs {
        // A relative path would be another folder in each process; the XDG specification wants such a path ignored as
        // well.
        let folder = |path: PathBuf| Some(path).filter(|path| path.is_absolute());
        let runtime = variable("RUNTIME_DIRECTORY").and_then(|list| {
            let first = list.as_bytes().split(|byte| *byte == b':').next()?;
            folder(std::ffi::OsStr::from_bytes(first).into())
        });
        let of_the_user = variable("XDG_RUNTIME_DIR").and_then(|path| folder(path.into()));
        RuntimeDirs { runtime, of_the_user: of_the_user.map(|path| path.join("cutover")), of_the_system, is_root }
    }

    /// The folder that a server puts its control socket into; `None` if there is no such folder. The folder need not
    /// exist yet.
    pub(crate) fn own(&self) -> Option<&Path> {
        let of_the_system = self.is_root.then_some(&self.of_the_system);
        self.runtime.as_ref().or(of_the_system).or(self.of_the_user.as_ref()).map(PathBuf::as_path)
    }

    /// The existing folders that a client looks in, each of them once: each folder that a server may have put its
    /// socket into, and the folders one level deeper, because a template unit of systemd has a folder for each
    /// instance.
    pub(crate) fn candidates(&self) -> Vec<PathBuf> {
        let top = [self.runtime.as_deref(), Some(&self.of_the_system), self.of_the_user.as_deref()];
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for folder in top.into_iter().flatten() {
            let mut deeper: Vec<PathBuf> = match fs::read_dir(folder) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect(),
                Err(_) => Vec::new(),
            };
            deeper.sort();
            for folder in std::iter::once(folder.to_owned()).chain(deeper) {
                // A second path to the same folder would name the same instance twice.
                if folder.is_dir() && fs::canonicalize(&folder).is_ok_and(|path| seen.insert(path)) {
                    found.push(folder);
                }
            }
        }
        found
    }
}

/// Checks whether a socket can have this path.
///
/// # Errors
/// An error that names the path, if the path is too long.
pub(crate) fn check_length(path: &Path) -> io::Result<()> {
    let length = path.as_os_str().len();
    if length <= PATH_MAX {
        return Ok(());
    }
    let why = format!("the path {} is too long for a socket: {length} bytes of at most {PATH_MAX}", path.display());
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// Whether a process listens on this socket. Does not wait.
///
/// # Errors
/// `ENOENT` if there is no socket, `EACCES` if the socket belongs to another user.
pub(crate) fn is_living(path: &Path) -> io::Result<bool> {
    check_length(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(|e| during("make a socket", e))?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        // The accept queue is full, so the socket has a listener.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn runtime_dirs(variables: &[(&str, &str)], is_root: bool, of_the_system: &Path) -> RuntimeDirs {
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        RuntimeDirs::with(variable, is_root, of_the_system.to_owned())
    }

    #[test]
    fn a_server_has_one_folder_by_who_runs_it() {
        let xdg = ("XDG_RUNTIME_DIR", "/run/user/7");
        for (variables, is_root, own) in [
            (&[("RUNTIME_DIRECTORY", "/run/web:/run/more"), xdg][..], true, Some("/run/web")),
            (&[("RUNTIME_DIRECTORY", ""), xdg], true, Some("/run/cutover")),
            (&[xdg], true, Some("/run/cutover")),
            (&[xdg], false, Some("/run/user/7/cutover")),
            (&[("XDG_RUNTIME_DIR", "relative")], false, None),
            (&[("RUNTIME_DIRECTORY", "relative")], false, None),
            (&[], false, None),
        ] {
            let runtime_dirs = runtime_dirs(variables, is_root, Path::new(OF_THE_SYSTEM));
            assert_eq!(runtime_dirs.own(), own.map(Path::new), "{variables:?}, root {is_root}");
        }
    }

    #[test]
    fn a_client_looks_in_each_folder_that_exists_and_one_level_deeper_once() {
        let place = tempfile::tempdir().expect("a folder");
        let at = |name: &str| place.path().join(name);
        for folder in ["system/web@b", "system/web@a", "user/cutover"] {
            fs::create_dir_all(at(folder)).expect("a folder");
        }
        fs::write(at("system/file"), "").expect("a file");
        std::os::unix::fs::symlink(at("system"), at("user/cutover/again")).expect("a symlink");
        let (runtime, user) = (at("system/web@a"), at("user"));
        let variables =
            [("RUNTIME_DIRECTORY", runtime.to_str().expect("text")), ("XDG_RUNTIME_DIR", user.to_str().expect("text"))];
        let found = runtime_dirs(&variables, false, &at("system")).candidates();
        assert_eq!(found, [at("system/web@a"), at("system"), at("system/web@b"), at("user/cutover")]);
        assert_eq!(runtime_dirs(&[], true, &at("nowhere")).candidates(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_path_that_does_not_fit_is_named() {
        let longest = Path::new("/").join("x".repeat(106));
        check_length(&longest).expect("fits");
        assert!(SockAddr::unix(&longest).is_ok(), "the system agrees");
        let longer = Path::new("/").join("x".repeat(107));
        let error = check_length(&longer).expect_err("too long").to_string();
        assert!(error.contains(longer.to_str().expect("text")) && error.contains("108 bytes"), "{error}");
    }

    #[test]
    fn a_stale_socket_is_told_from_a_living_one() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("web.sock");
        assert_eq!(is_living(&path).expect_err("none").kind(), io::ErrorKind::NotFound);
        let listener = UnixListener::bind(&path).expect("bound");
        assert!(is_living(&path).expect("there"));
        // Another test may just have forked this process, and the copy of the descriptor keeps the socket open after a
        // close.
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).expect("it listens");
        assert!(!is_living(&path).expect("a file is left"));
    }
}
