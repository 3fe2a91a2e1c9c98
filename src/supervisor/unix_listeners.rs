//! Unix sockets for a supervised program: the supervisor listens, and each generation gets the same listeners, as from a
//! service manager (sd_listen_fds(3)). So the queue of each listener outlives every generation.

use std::os::fd::OwnedFd;

use crate::error::{Error, ErrorKind};
use crate::model::unix_address::UnixAddress;
use crate::runtime::offload::{self, FILES_MAX};
use crate::sys::unix_listener::{self, Access, FileId, PASSED_MAX};

/// The listeners of an instance.
#[derive(Debug, Default)]
pub(super) struct UnixListeners {
    addresses: Vec<(UnixAddress, Option<FileId>)>,
    listeners: Vec<OwnedFd>,
}

impl UnixListeners {
    /// Listens on these addresses.
    ///
    /// # Errors
    /// Names the address, and why nothing can listen there.
    #[expect(clippy::disallowed_methods, reason = "before the program is started")]
    pub(super) fn claim(addresses: &[UnixAddress], access: &Access, backlog: u32) -> Result<UnixListeners, Error> {
        if addresses.len() > PASSED_MAX {
            let why = format!("{} Unix sockets; a program gets at most {PASSED_MAX}", addresses.len());
            return Err(Error::new(ErrorKind::Config, why));
        }
        let mut all = UnixListeners::default();
        for address in addresses {
            let wrong = |error: String| Error::new(ErrorKind::Address, error);
            let (listener, file) = unix_listener::claim(address, access, backlog).map_err(|e| wrong(e.to_string()))?;
            // As a service manager passes it: a program that wants another mode sets it.
            listener.set_nonblocking(false).map_err(|error| wrong(error.to_string()))?;
            all.addresses.push((address.clone(), file));
            all.listeners.push(listener.into());
        }
        Ok(all)
    }

    pub(super) fn listeners(&self) -> &[OwnedFd] {
        &self.listeners
    }

    /// Removes the files, as far as their paths still lead to these listeners.
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) async fn remove_files(&self) {
        let files = self.addresses.iter().filter_map(|(address, file)| Some((address.path()?.to_owned(), (*file)?)));
        let files: Vec<_> = files.collect();
        let remove = move || files.iter().for_each(|(path, file)| unix_listener::remove(path, *file));
        // A disk that does not answer leaves the files, which the next start replaces.
        let _ = offload::run_within(FILES_MAX, remove).await;
    }

    /// The addresses, as users write them.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.addresses.iter().map(|(address, _)| address.to_string()).collect()
    }
}
