//! The PID file: written atomically, by renaming a temporary file over it.
//!
//! The disk of the file may hang. Then the server continues without the file, and writes it when the disk answers
//! again.
#![expect(clippy::disallowed_methods, reason = "in functions that `PidFile` has done by another thread")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::offload::{FILES_MAX, Lane, Stalled};
use crate::model::identity::Pid;
use crate::sys::during;

/// The PID file of an instance. Clones are handles of the same file.
#[derive(Debug, Clone)]
pub(crate) struct PidFile {
    path: Arc<Path>,
    lane: Lane,
    /// Whether the last write was too late and was not done.
    is_due: Arc<AtomicBool>,
}

impl PidFile {
    pub(crate) fn new(path: PathBuf) -> PidFile {
        PidFile { path: path.into(), lane: Lane::new(1), is_due: Arc::default() }
    }

    /// Writes `pid` to the file, which at no moment is missing or half written. Waits for the disk for [`FILES_MAX`] at
    /// most. Errors are logged.
    pub(crate) async fn write(&self, pid: Pid) {
        let path = self.path.clone();
        match self.lane.run_within(FILES_MAX, move || write(&path, pid)).await {
            Ok(Ok(())) => self.is_due.store(false, Ordering::Relaxed),
            Ok(Err(error)) if error.kind() != io::ErrorKind::TimedOut => {
                self.is_due.store(false, Ordering::Relaxed);
                tracing::warn!(%error, "ignoring");
            }
            Ok(Err(_)) | Err(Stalled::Late(_) | Stalled::Panicked) => {
                if !self.is_due.swap(true, Ordering::Relaxed) {
                    let path = self.path.display();
                    tracing::warn!(
                        "the PID file {path} cannot be written: its disk does not answer; going on without it"
                    );
                }
            }
        }
    }

    /// Whether the file is to be written again, because its disk did not answer.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due.load(Ordering::Relaxed)
    }

    /// Removes the file if it still names `pid`: another generation may have written its own pid since. Waits for the
    /// disk for [`FILES_MAX`] at most. Errors are logged.
    pub(crate) async fn remove(&self, pid: Pid) {
        let path = self.path.clone();
        match self.lane.run_within(FILES_MAX, move || remove(&path, pid)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "ignoring"),
            Err(stalled) => tracing::warn!("cannot remove the PID file {}, ignoring: {stalled}", self.path.display()),
        }
    }
}

/// # Errors
/// Names the file. `TimedOut` if the disk has answered too late: by then another process may have written the file.
fn write(path: &Path, pid: Pid) -> io::Result<()> {
    let began = Instant::now();
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let in_time = || if began.elapsed() < FILES_MAX { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) };
    let written = std::fs::write(&beside, format!("{pid}\n"));
    let written = written.and_then(|()| in_time()).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| {
        // A temporary file that could not be renamed is not left behind.
        let _ = std::fs::remove_file(&beside);
        during(format_args!("write the PID file {}", path.display()), error)
    })
}

fn remove(path: &Path, pid: Pid) -> io::Result<()> {
    let ours = std::fs::read_to_string(path).is_ok_and(|text| text.trim() == pid.to_string());
    if !ours {
        return Ok(());
    }
    std::fs::remove_file(path).map_err(|error| during(format_args!("remove the PID file {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_replaced_and_removed_only_by_the_one_it_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("server.pid");
        write(&path, Pid::new(11)).expect("written");
        write(&path, Pid::new(12)).expect("replaced");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "12\n");
        remove(&path, Pid::new(11)).expect("another's");
        assert!(path.exists());
        remove(&path, Pid::new(12)).expect("removed");
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0, "nothing is left over");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = write(Path::new("/nowhere/server.pid"), Pid::new(1)).expect_err("no such folder");
        assert!(error.to_string().contains("/nowhere/server.pid"), "{error}");
    }
}
