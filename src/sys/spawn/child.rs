//! A child of this process.
//!
//! posix_spawn(3) starts it: the call does not copy the page tables of a process that may be large, and does not cause
//! a page fault for each page that the threads of this process write to in that moment.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;

use super::image::{Group, Image};
use crate::sys::process::Process;
use crate::sys::signals::{Signals, checked};

/// `mask` is the set of signals that are blocked in the child when it begins.
pub(super) fn spawn(image: &Image, mask: &Signals, group: Group) -> io::Result<Process> {
    let (actions, attributes) = (Actions::new(image.directory.as_ref())?, Attributes::new(mask, group)?);
    let mut pid = 0;
    // SAFETY: the path is a C string; both arrays end in a null pointer after pointers to C strings; actions and attributes
    // are initialised; all of them live until the call returns, which is after exec.
    let failed = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            image.program.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            image.arguments.array.as_ptr(),
            image.environment.array.as_ptr(),
        )
    };
    checked(failed)?;
    let pid = rustix::process::Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Process::hold(pid)
}

/// What the child does before exec.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new(directory: Option<&CString>) -> io::Result<Actions> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: initialises what the valid pointer points to, or fails.
        checked(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: the call above has succeeded.
        let mut actions = Actions(unsafe { actions.assume_init() });
        if let Some(directory) = directory {
            // SAFETY: the actions are initialised; the path is a C string, which is copied.
            let failed = unsafe { libc::posix_spawn_file_actions_addchdir_np(&raw mut actions.0, directory.as_ptr()) };
            checked(failed)?;
        }
        actions.close_all_above_2()?;
        Ok(actions)
    }

    /// By close_range(2) in the child (glibc 2.34).
    #[cfg(target_env = "gnu")]
    fn close_all_above_2(&mut self) -> io::Result<()> {
        // SAFETY: the actions are initialised.
        checked(unsafe { libc::posix_spawn_file_actions_addclosefrom_np(&raw mut self.0, 3) })
    }

    /// One by one, for the descriptors that are open now: others were opened with close-on-exec, as the standard
    /// library does.
    #[cfg(not(target_env = "gnu"))]
    fn close_all_above_2(&mut self) -> io::Result<()> {
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let fd = entry?.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(fd) = fd.filter(|fd| *fd > 2) {
                // SAFETY: the actions are initialised. A descriptor that is closed by then is passed over.
                checked(unsafe { libc::posix_spawn_file_actions_addclose(&raw mut self.0, fd) })?;
            }
        }
        Ok(())
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, and destroyed only here.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// The attributes of the child before exec.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new(mask: &Signals, group: Group) -> io::Result<Attributes> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: initialises what the valid pointer points to, or fails.
        checked(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: the call above has succeeded.
        let mut attributes = Attributes(unsafe { attributes.assume_init() });
        let all = Signals::all();
        // SAFETY: the attributes and the set are initialised; the set is copied.
        checked(unsafe { libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, &raw const all.0) })?;
        // SAFETY: as above.
        checked(unsafe { libc::posix_spawnattr_setsigmask(&raw mut attributes.0, &raw const mask.0) })?;
        let group = match group {
            Group::Own => attributes.lead_a_group()?,
            Group::Ours => 0,
        };
        let flags = libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK | group;
        let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
        // SAFETY: the attributes are initialised, and the flags those of posix_spawn(3).
        checked(unsafe { libc::posix_spawnattr_setflags(&raw mut attributes.0, flags) })?;
        Ok(attributes)
    }

    /// Makes the child lead a new process group. Returns the flag that the attributes need for this.
    fn lead_a_group(&mut self) -> io::Result<libc::c_int> {
        // SAFETY: the attributes are initialised; 0 stands for the child's own pid (posix_spawnattr_setpgroup(3)).
        checked(unsafe { libc::posix_spawnattr_setpgroup(&raw mut self.0, 0) })?;
        Ok(libc::POSIX_SPAWN_SETPGROUP)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, and destroyed only here.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}
