//! Finds the control socket of an instance, by the name of the instance or because there is only one.
#![expect(clippy::disallowed_methods, reason = "a client waits for its own folders only")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{ControlError, ControlErrorKind};
use crate::model::instance_name;
use crate::sys::control_folder;

/// The socket of the living instance with this name in these folders; without a name, that of the only living instance.
pub(super) fn find(name: Option<&str>, folders: &[PathBuf]) -> Result<PathBuf, ControlError> {
    if let Some(name) = name {
        instance_name::check(name).map_err(|why| ControlError::new(ControlErrorKind::Name, why.to_string()))?;
    }
    let mut seen = Seen::default();
    for folder in folders {
        match name {
            Some(name) => seen.look_at(name.to_owned(), folder.join(instance_name::file_name(name))),
            None => seen.look_into(folder),
        }
    }
    seen.choose(name, folders)
}

/// The sockets of all living instances in these folders.
pub(super) fn all(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = Seen::default();
    folders.iter().for_each(|folder| seen.look_into(folder));
    seen.living.into_iter().map(|(_, path)| path).collect()
}

#[derive(Debug, Default)]
struct Seen {
    living: Vec<(String, PathBuf)>,
    /// Files and folders that exist, and that this user may not access.
    denied: Vec<(PathBuf, io::Error)>,
}

impl Seen {
    fn look_into(&mut self, folder: &Path) {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => return self.note(folder.to_owned(), error),
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| instance_name::of_file(entry.file_name().to_str()?).map(str::to_owned))
            .collect();
        names.sort();
        for name in names {
            let path = folder.join(instance_name::file_name(&name));
            self.look_at(name, path);
        }
    }

    fn look_at(&mut self, name: String, path: PathBuf) {
        match control_folder::is_living(&path) {
            Ok(true) => self.living.push((name, path)),
            // The process that bound it is gone.
            Ok(false) => {}
            Err(error) => self.note(path, error),
        }
    }

    /// Notes a lack of permission. Any other error means that there is no instance either.
    fn note(&mut self, path: PathBuf, error: io::Error) {
        if error.kind() == io::ErrorKind::PermissionDenied {
            self.denied.push((path, error));
        }
    }

    fn choose(mut self, name: Option<&str>, folders: &[PathBuf]) -> Result<PathBuf, ControlError> {
        if self.living.len() > 1 {
            let all: Vec<_> = self.living.iter().map(|(name, path)| format!("{name} ({})", path.display())).collect();
            let message = format!("several instances run, and one must be chosen: {}", all.join(", "));
            return Err(ControlError::new(ControlErrorKind::Several, message));
        }
        if let Some((_, path)) = self.living.pop() {
            return Ok(path);
        }
        if let Some((path, error)) = self.denied.into_iter().next() {
            let message = format!("{} belongs to another user", path.display());
            return Err(ControlError::because(ControlErrorKind::Denied, message, error));
        }
        let wanted = name.map(|name| format!(" with the name {name}")).unwrap_or_default();
        let looked: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        let looked = if looked.is_empty() {
            "neither $RUNTIME_DIRECTORY nor /run/cutover nor $XDG_RUNTIME_DIR/cutover exists".to_owned()
        } else {
            format!("looked in {}", looked.join(", "))
        };
        Err(ControlError::new(ControlErrorKind::NoInstance, format!("no instance{wanted} runs: {looked}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn folders(place: &Path) -> Vec<PathBuf> {
        let folders = ["a", "b"].map(|name| place.join(name)).to_vec();
        folders.iter().for_each(|folder| fs::create_dir(folder).expect("a folder"));
        folders
    }

    #[test]
    fn the_only_living_one_needs_no_name_and_stale_files_do_not_count() {
        let place = tempfile::tempdir().expect("a folder");
        let folders = folders(place.path());
        let error = find(None, &folders).expect_err("none");
        assert_eq!(error.kind(), ControlErrorKind::NoInstance);
        assert!(error.to_string().contains(folders[1].to_str().expect("text")), "{error}");

        drop(UnixListener::bind(folders[0].join("old.sock")).expect("bound"));
        assert_eq!(find(Some("old"), &folders).expect_err("stale").kind(), ControlErrorKind::NoInstance);
        fs::write(folders[0].join("text.sock"), "").expect("a file");
        let web = folders[1].join("web.sock");
        let _web = UnixListener::bind(&web).expect("bound");
        assert_eq!(find(None, &folders).expect("one"), web);
        assert_eq!(find(Some("web"), &folders).expect("it"), web);
        let error = find(Some("api"), &folders).expect_err("none");
        assert!(error.to_string().starts_with("no instance with the name api runs"), "{error}");
    }

    #[test]
    fn several_are_listed_and_one_is_found_by_its_name() {
        let place = tempfile::tempdir().expect("a folder");
        let folders = folders(place.path());
        let _api = UnixListener::bind(folders[0].join("api.sock")).expect("bound");
        let _web = UnixListener::bind(folders[1].join("web.sock")).expect("bound");
        let error = find(None, &folders).expect_err("two");
        assert_eq!(error.kind(), ControlErrorKind::Several);
        assert!(error.to_string().contains("api (") && error.to_string().contains("web ("), "{error}");
        assert_eq!(find(Some("api"), &folders).expect("it"), folders[0].join("api.sock"));
        assert_eq!(all(&folders), [folders[0].join("api.sock"), folders[1].join("web.sock")]);

        let _other_api = UnixListener::bind(folders[1].join("api.sock")).expect("bound");
        assert_eq!(find(Some("api"), &folders).expect_err("two").kind(), ControlErrorKind::Several);
    }

    #[test]
    fn a_bad_name_is_named() {
        let error = find(Some("../web"), &[]).expect_err("bad");
        assert_eq!(error.kind(), ControlErrorKind::Name);
        assert!(error.to_string().contains("../web"), "{error}");
    }
}
