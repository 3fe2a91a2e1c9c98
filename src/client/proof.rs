//! The proof that the process with a number is the server that a PID file means, for a server without a control socket.
#![expect(clippy::disallowed_methods, reason = "a client waits for its own files only")]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::pid_file::{self, Named};
use crate::sys::{credentials, executable, process_age};

/// A process that seems to have begun up to this long after the PID file was written may be the one that the file
/// means. The kernel gives the start of a process, and the time since boot, in hundredths of a second (proc(5)), and
/// gives a file the time of the last clock tick; a FAT file system has a granularity of two seconds.
const GRANULARITY: Duration = Duration::from_secs(2);

/// How much of the first line, `#!` included, the kernel reads, in bytes: `BINPRM_BUF_SIZE` of linux/binfmts.h (Linux
/// 5.1).
const FIRST_LINE: u64 = 256;

/// Why a process is not proven to be the server, in words that go on after "process 12".
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unproven {
    #[error("cannot be examined: {0}")]
    NotExamined(String),
    #[error("does not handle SIGHUP")]
    IgnoresHup,
    #[error("has a start time that cannot be computed")]
    NoStartTime,
    #[error("began {0} s after the file was written")]
    BeganLater(u64),
    #[error("cannot be compared with {}: {error}", root.display())]
    NoRoot { root: PathBuf, error: String },
    #[error("executes {exe}, and neither that file nor the path by which it was started is in {}", root.display())]
    Outside { exe: String, root: PathBuf },
}

/// Examines the process that has this number now. The caller holds the process, and checks afterwards that it is alive.
///
/// # Errors
/// The proof that fails.
pub(super) fn prove(named: Named, root: &Path) -> Result<(), Unproven> {
    let Named { pid, written } = named;
    let handles = credentials::handles_hup(pid).map_err(|error| Unproven::NotExamined(error.to_string()))?;
    if !handles {
        return Err(Unproven::IgnoresHup);
    }
    let age = process_age::of(pid).map_err(|error| Unproven::NotExamined(error.to_string()))?;
    began_before(SystemTime::now().checked_sub(age), written)?;
    let root =
        fs::canonicalize(root).map_err(|error| Unproven::NoRoot { root: root.to_owned(), error: error.to_string() })?;
    // The executable of a process with more capabilities than this one cannot be read, though the user is the same
    // (ptrace(2)).
    let exe = executable::of(pid);
    let arguments = executable::arguments_of(pid).unwrap_or_default();
    let is_proven = exe.as_ref().is_ok_and(|exe| is_inside(exe, &root));
    // A path outside of the root proves nothing, so that file is left alone.
    let first_line = |script: &Path| leads_into(script, &root).then(|| first_line(script)).flatten();
    if is_proven || started_by(&arguments, first_line).iter().any(|path| leads_into(path, &root)) {
        return Ok(());
    }
    let exe = exe.map_or_else(|_| "a file that cannot be seen".to_owned(), |exe| exe.display().to_string());
    Err(Unproven::Outside { exe, root })
}

/// A number is reused only after its process is gone, so a later process with the same number began after the file was
/// written. If the clock was set forward in between, the right process looks like a later one as well: it is refused.
fn began_before(began: Option<SystemTime>, written: SystemTime) -> Result<(), Unproven> {
    let began = began.ok_or(Unproven::NoStartTime)?;
    match began.duration_since(written) {
        Ok(late) if late > GRANULARITY => Err(Unproven::BeganLater(late.as_secs())),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A deleted file is inside as well, because the kernel's mark stands at the end of the name.
fn is_inside(exe: &Path, root: &Path) -> bool {
    exe.starts_with(root) && exe != root
}

/// The paths by which a process can have been started: its name (argv 0), which a program that starts itself anew
/// follows; and the script, if its first line asks for an interpreter with the name of the one that runs, in any
/// folder. Any other argument proves nothing: an editor may have a file of the release open.
fn started_by(arguments: &[OsString], first_line: impl Fn(&Path) -> Option<String>) -> Vec<PathBuf> {
    let Some((name, others)) = arguments.split_first() else { return Vec::new() };
    // The kernel gives the interpreter one option at the most (execve(2)).
    let script = others.iter().take(2).find(|word| !word.as_bytes().starts_with(b"-")).map(PathBuf::from);
    let script = script.filter(|path| path.is_absolute() && first_line(path).is_some_and(|line| asks_for(&line, name)));
    [PathBuf::from(name)].into_iter().chain(script).collect()
}

fn asks_for(first_line: &str, interpreter: &OsStr) -> bool {
    let Some(name) = Path::new(interpreter).file_name() else { return false };
    let words = first_line.strip_prefix("#!").map(str::split_whitespace);
    words.is_some_and(|mut words| words.any(|word| Path::new(word).file_name() == Some(name)))
}

fn first_line(script: &Path) -> Option<String> {
    let mut start = Vec::new();
    pid_file::open_regular(script).ok()?.take(FIRST_LINE).read_to_end(&mut start).ok()?;
    let line = start.split(|byte| *byte == b'\n').next()?;
    Some(String::from_utf8_lossy(line).into_owned())
}

/// Whether the folder of this path, with symlinks followed, is the root or inside of it.
fn leads_into(path: &Path, root: &Path) -> bool {
    let folder = path.parent().filter(|_| path.is_absolute());
    folder.and_then(|folder| fs::canonicalize(folder).ok()).is_some_and(|folder| folder.starts_with(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_began_after_the_file_was_written_is_another() {
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (late, is_proven) in [(-3600, true), (0, true), (2000, true), (2001, false), (3_600_000, false)] {
            let time = Duration::from_millis(u64::from(i32::unsigned_abs(late)));
            let began = if late < 0 { written - time } else { written + time };
            assert_eq!(began_before(Some(began), written).is_ok(), is_proven, "{late} ms late");
        }
        let why = began_before(Some(written + Duration::from_secs(7)), written).expect_err("late");
        assert_eq!(why.to_string(), "began 7 s after the file was written");
        assert!(began_before(None, written).is_err());
    }

    #[test]
    fn an_executable_is_inside_of_the_root_or_not() {
        let root = Path::new("/srv/app");
        for (exe, inside) in [
            ("/srv/app/releases/v1/server", true),
            ("/srv/app/releases/v1/server (deleted)", true),
            ("/srv/app", false),
            ("/srv/app (deleted)", false),
            ("/srv/app2/server", false),
            ("/usr/bin/python3.11", false),
        ] {
            assert_eq!(is_inside(Path::new(exe), root), inside, "{exe}");
        }
    }

    #[test]
    fn a_process_was_started_by_its_name_or_by_the_script_that_asks_for_it() {
        let line = |path: &Path| match path.to_str() {
            Some("/srv/direct") => Some("#! /usr/bin/python3 -E".to_owned()),
            Some("/srv/env") => Some("#!/usr/bin/env python3".to_owned()),
            Some("/srv/text") => Some("python3".to_owned()),
            _ => None,
        };
        for (arguments, started) in [
            (&["/srv/server", "--listen"][..], &["/srv/server"][..]),
            (&["/usr/bin/python3", "/srv/direct"], &["/usr/bin/python3", "/srv/direct"]),
            (&["/usr/bin/python3", "-E", "/srv/direct", "x"], &["/usr/bin/python3", "/srv/direct"]),
            (&["python3", "/srv/env"], &["python3", "/srv/env"]),
            (&["/opt/bin/python3", "/srv/env"], &["/opt/bin/python3", "/srv/env"]),
            (&["/opt/python3/vim", "/srv/env"], &["/opt/python3/vim"]),
            (&["", "/srv/env"], &[""]),
            (&["python3", "/srv/text"], &["python3"]),
            (&["python3", "-c", "/srv/env"], &["python3", "/srv/env"]),
            (&["python3", "-c", "x", "/srv/env"], &["python3"]),
            (&["python3"], &["python3"]),
            (&[], &[]),
        ] {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            let started: Vec<PathBuf> = started.iter().map(PathBuf::from).collect();
            assert_eq!(started_by(&arguments, line), started, "{arguments:?}");
        }
    }

    #[test]
    fn a_path_leads_where_its_folder_is() {
        let place = tempfile::tempdir().expect("a folder");
        let root = place.path().canonicalize().expect("a path").join("root");
        fs::create_dir_all(root.join("releases/v1")).expect("folders");
        std::os::unix::fs::symlink("releases/v1", root.join("current")).expect("a symlink");
        std::os::unix::fs::symlink("/usr/bin", root.join("out")).expect("a symlink");
        let through = |path: &str| leads_into(&root.join(path), &root);
        assert!(through("current/server") && through("server") && through("releases/gone"));
        assert!(!through("out/env") && !through("../server") && !through("no/such/folder"));
        assert!(!leads_into(Path::new("server"), &root) && !leads_into(Path::new("current/server"), &root));
    }

    #[test]
    fn the_first_line_of_a_script_is_read_and_no_more() {
        let place = tempfile::tempdir().expect("a folder");
        let script = place.path().join("script");
        fs::write(&script, "#!/bin/sh -e\nsecond\n").expect("written");
        assert_eq!(first_line(&script).as_deref(), Some("#!/bin/sh -e"));
        fs::write(&script, "x".repeat(10_000)).expect("written");
        assert_eq!(first_line(&script).expect("some").len(), 256);
        assert_eq!(first_line(place.path()), None);
    }
}
