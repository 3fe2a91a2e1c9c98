//! How this process was started, so that the next generation can be started the same way.
#![expect(clippy::disallowed_methods, reason = "whoever calls it is asked instead: `executable` is disallowed itself")]

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::attributes::Attributes;

/// How this process was started, taken once, before the application changes anything.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(super) arguments: Vec<OsString>,
    pub(super) environment: Vec<(OsString, OsString)>,
    /// The *path* of the directory: if the path leads through a symlink that is flipped, the next generation follows it
    /// anew.
    pub(super) directory: Option<PathBuf>,
    pub(super) attributes: Attributes,
}

impl Launch {
    /// Reads the arguments, the environment, the directory and the attributes of the running process.
    pub(crate) fn capture() -> Launch {
        Launch {
            arguments: std::env::args_os().collect(),
            environment: std::env::vars_os().collect(),
            directory: start_directory(),
            attributes: Attributes::capture(),
        }
    }

    /// The launch of another program from where this process was started; `words` are the program's name and arguments.
    pub(crate) fn running(&self, words: Vec<OsString>) -> Launch {
        Launch { arguments: words, ..self.clone() }
    }

    /// Whether there is a file by the name that the process is started with, executable or not.
    pub(crate) fn is_there(&self) -> bool {
        let name = self.arguments.first().map(Path::new).unwrap_or(Path::new(""));
        let directory = self.directory.as_deref().unwrap_or(Path::new("/"));
        self.candidates(directory, name).iter().any(|candidate| candidate.exists())
    }

    /// A launch with these words, an empty environment, the root directory, and the attributes of this process.
    #[cfg(test)]
    pub(crate) fn of<const N: usize>(words: [&str; N]) -> Launch {
        let arguments = words.map(OsString::from).into();
        Launch { arguments, environment: vec![], directory: Some("/".into()), attributes: Attributes::capture() }
    }

    pub(crate) fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    pub(crate) fn environment(&self) -> &[(OsString, OsString)] {
        &self.environment
    }

    pub(crate) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    pub(crate) fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&OsStr> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    /// Finds the executable by the name that this process was started with, and checks that the file can be executed.
    ///
    /// Never through /proc/self/exe, which is the *old* file after a deploy has replaced the executable. A name without
    /// a slash is looked up in PATH, as at the start; symlinks are followed anew each time.
    ///
    /// # Errors
    /// Names the path, and what is wrong with the path or with the start directory.
    pub(crate) fn executable(&self) -> Result<PathBuf, ExecutableError> {
        let name = self.arguments.first().filter(|name| !name.is_empty());
        let name = Path::new(name.ok_or(ExecutableError::NoName)?);
        let directory = self.directory.as_deref().ok_or(ExecutableError::NoDirectory)?;
        std::fs::metadata(directory)
            .map_err(|error| ExecutableError::Directory { path: directory.to_owned(), error })?;
        // As in a shell, a file that may not be executed counts only if PATH has no executable one.
        let mut tried = self.candidates(directory, name).into_iter().map(|path| can_execute(&path).map(|()| path));
        let not_there = || Err(ExecutableError::NotInPath(name.to_owned()));
        let first = tried.next().unwrap_or_else(not_there);
        first.or_else(|why| tried.find_map(Result::ok).ok_or(why))
    }

    /// The file that `name` is the path of, or the files in PATH that have this name.
    fn candidates(&self, directory: &Path, name: &Path) -> Vec<PathBuf> {
        if name.components().count() > 1 || name.is_absolute() {
            return vec![directory.join(name)];
        }
        let path = self.variable("PATH").unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"));
        let all = std::env::split_paths(path).map(|folder| directory.join(folder).join(name));
        all.filter(|candidate| candidate.is_file()).collect()
    }
}

fn start_directory() -> Option<PathBuf> {
    let real = std::env::current_dir().ok()?;
    let same = |a: &Path, b: &Path| {
        use std::os::unix::fs::MetadataExt;
        let key = |p: &Path| std::fs::metadata(p).map(|m| (m.dev(), m.ino())).ok();
        key(a).is_some() && key(a) == key(b)
    };
    let named = std::env::var_os("PWD").map(PathBuf::from).filter(|path| path.is_absolute());
    Some(named.filter(|path| same(path, &real)).unwrap_or(real))
}

fn can_execute(path: &Path) -> Result<(), ExecutableError> {
    let metadata =
        std::fs::metadata(path).map_err(|error| ExecutableError::NotFound { path: path.to_owned(), error })?;
    if !metadata.is_file() {
        return Err(ExecutableError::NoFile(path.to_owned()));
    }
    access(path, Access::EXEC_OK)
        .map_err(|error| ExecutableError::NotExecutable { path: path.to_owned(), error: error.into() })
}

/// Why a program cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecutableError {
    #[error("the process was started without a name (argv[0]), so its executable is not known")]
    NoName,
    #[error("the directory that the process was started in had been removed before the start")]
    NoDirectory,
    #[error("the start directory {} cannot be entered: {error}", path.display())]
    Directory { path: PathBuf, error: io::Error },
    #[error("the executable {} is not in PATH", .0.display())]
    NotInPath(PathBuf),
    #[error("the executable {} cannot be found: {error}", path.display())]
    NotFound { path: PathBuf, error: io::Error },
    #[error("the executable {} is not a file", .0.display())]
    NoFile(PathBuf),
    #[error("{} is not executable: {error}", path.display())]
    NotExecutable { path: PathBuf, error: io::Error },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started_as(name: &str, directory: &Path) -> Launch {
        Launch {
            environment: vec![("PATH".into(), "/nowhere:/bin:/usr/bin".into())],
            directory: Some(directory.to_owned()),
            ..Launch::of([name])
        }
    }

    #[test]
    fn an_executable_is_found_by_its_path_or_in_path() {
        let folder = tempfile::tempdir().expect("a folder");
        std::os::unix::fs::symlink("/bin/sh", folder.path().join("server")).expect("a symlink");
        let found = started_as("./server", folder.path()).executable().expect("there");
        assert_eq!(found, folder.path().join("./server"), "the symlink itself, not where it leads");
        assert!(started_as("sh", folder.path()).executable().expect("in PATH").ends_with("sh"));
    }

    #[test]
    fn in_path_one_that_cannot_be_executed_counts_if_there_is_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("sh"), "text").expect("write");
        std::fs::write(folder.path().join("plain"), "text").expect("write");
        let in_path = |name: &str| {
            let path = std::env::join_paths([folder.path(), Path::new("/bin")]).expect("a PATH");
            Launch { environment: vec![("PATH".into(), path)], ..started_as(name, folder.path()) }
        };
        assert!(in_path("sh").executable().expect("the second").starts_with("/bin"));
        assert!(in_path("plain").executable().expect_err("plain").to_string().contains("not executable"));
        assert!(in_path("plain").is_there() && !in_path("no-such-program").is_there());
    }

    #[test]
    fn what_cannot_be_executed_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("plain"), "text").expect("write");
        for (name, why) in [
            ("./gone", "cannot be found"),
            ("./plain", "not executable"),
            ("/", "not a file"),
            ("no-such-program", "not in PATH"),
            ("", "argv[0]"),
        ] {
            let error = started_as(name, folder.path()).executable().expect_err(name).to_string();
            assert!(error.contains(why), "{name}: {error}");
        }
        let gone = folder.path().join("gone");
        assert!(
            started_as("/bin/sh", &gone)
                .executable()
                .expect_err("no directory")
                .to_string()
                .contains("start directory")
        );
    }
}
