//! The PID file: written whole, by a temporary file that is renamed over it.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::identity::Pid;
use crate::sys::during;

/// Writes `pid` to the file, which at no moment is missing or half written.
///
/// # Errors
/// Names the file.
pub(crate) fn write(path: &Path, pid: Pid) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = std::fs::write(&beside, format!("{pid}\n")).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| {
        // What could not be renamed is not left behind.
        let _ = std::fs::remove_file(&beside);
        during(format_args!("write the PID file {}", path.display()), error)
    })
}

/// Removes the file if it still names `pid`: another generation may have written its own since.
pub(crate) fn remove(path: &Path, pid: Pid) {
    let ours = std::fs::read_to_string(path).is_ok_and(|text| text.trim() == pid.to_string());
    if ours && let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "cannot remove the PID file, ignoring");
    }
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
        remove(&path, Pid::new(11));
        assert!(path.exists());
        remove(&path, Pid::new(12));
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0, "nothing is left over");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = write(Path::new("/nowhere/server.pid"), Pid::new(1)).expect_err("no such folder");
        assert!(error.to_string().contains("/nowhere/server.pid"), "{error}");
    }
}
