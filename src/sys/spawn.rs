//! Starts the next generation as this one was started, with nothing but descriptors 0, 1 and 2.
//!
//! By posix_spawn(3), which does not copy the page tables of a process that may be large, and does not make each page that
//! its threads write to in that moment a fault.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::during;
use super::origin::Origin;
use super::process::Process;

/// Starts `path` as this process was started: arguments, environment (less `removed`, plus `added`), directory.
///
/// Descriptors above 2 are closed, those without close-on-exec included; every signal has its default disposition, and
/// none is blocked but SIGHUP: the next generation unblocks it when it can handle it ([`unblock_hup`]), so that a HUP sent
/// to the whole group does not kill it in its first millisecond. A file that is no program is an error, and not given to a
/// shell. Blocks the thread until exec has happened.
///
/// # Errors
/// What clone(2), chdir(2) or execve(2) say.
pub(crate) fn spawn(origin: &Origin, path: &Path, removed: &[&str], added: &[(&str, OsString)]) -> io::Result<Process> {
    let kept = origin.environment.iter().filter(|(key, _)| !removed.iter().any(|name| key == name));
    let kept = kept.map(|(key, value)| (key.as_os_str(), value));
    let environment = kept.chain(added.iter().map(|(key, value)| (OsStr::new(key), value)));
    let environment = environment.map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()].concat());
    let environment = Pointers::to(environment)?;
    let arguments = Pointers::to(origin.arguments.iter().map(|argument| argument.as_bytes().to_vec()))?;
    let program = CString::new(path.as_os_str().as_bytes())?;
    let directory = origin.directory.as_ref().map(|path| CString::new(path.as_os_str().as_bytes())).transpose()?;
    let (actions, attributes) = (Actions::new(directory.as_ref())?, Attributes::new()?);
    let mut pid = 0;
    // SAFETY: the path is a C string; both arrays end in a null pointer after pointers to C strings; actions and attributes
    // are initialised; all of them live until the call returns, which is after exec.
    let failed = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            arguments.array.as_ptr(),
            environment.array.as_ptr(),
        )
    };
    checked(failed).map_err(|error| during(format_args!("execute {}", path.display()), error))?;
    let pid = rustix::process::Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Process::hold(pid)
}

/// Lets SIGHUP in again after [`spawn`] in the generation before has blocked it.
pub(crate) fn unblock_hup() -> io::Result<()> {
    let set = Signals::only_hup();
    // SAFETY: the set is initialised and only read; a null pointer for the old one is allowed.
    checked(unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set.0, std::ptr::null_mut()) })
}

/// The calls of this file return their errno.
fn checked(errno: libc::c_int) -> io::Result<()> {
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// C strings, and an array of pointers to them that ends in a null pointer.
struct Pointers {
    array: Vec<*mut libc::c_char>,
    _strings: Vec<CString>,
}

impl Pointers {
    fn to(strings: impl Iterator<Item = Vec<u8>>) -> io::Result<Pointers> {
        let strings = strings.map(CString::new).collect::<Result<Vec<_>, _>>()?;
        // posix_spawn(3) takes them as mutable, and does not change them.
        let array = strings.iter().map(|s| s.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect();
        Ok(Pointers { array, _strings: strings })
    }
}

struct Signals(libc::sigset_t);

impl Signals {
    fn all() -> Signals {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigfillset(3) writes the whole set that the valid pointer points to.
        unsafe { libc::sigfillset(set.as_mut_ptr()) };
        // SAFETY: the call above has initialised it.
        Signals(unsafe { set.assume_init() })
    }

    fn only_hup() -> Signals {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset(3) writes the whole set that the valid pointer points to.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: the call above has initialised it.
        let mut set = unsafe { set.assume_init() };
        // SAFETY: the set is initialised, and SIGHUP a signal.
        unsafe { libc::sigaddset(&raw mut set, libc::SIGHUP) };
        Signals(set)
    }
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

    /// One by one, those that are there now: others were opened with close-on-exec, as the standard library does it.
    #[cfg(not(target_env = "gnu"))]
    fn close_all_above_2(&mut self) -> io::Result<()> {
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let fd = entry?.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(fd) = fd.filter(|fd| *fd > 2) {
                // SAFETY: the actions are initialised. One that is closed by then is passed over.
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

/// What the child is like before exec.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Attributes> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: initialises what the valid pointer points to, or fails.
        checked(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: the call above has succeeded.
        let mut attributes = Attributes(unsafe { attributes.assume_init() });
        let (all, hup) = (Signals::all(), Signals::only_hup());
        // SAFETY: the attributes and the set are initialised; the set is copied.
        checked(unsafe { libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, &raw const all.0) })?;
        // SAFETY: as above.
        checked(unsafe { libc::posix_spawnattr_setsigmask(&raw mut attributes.0, &raw const hup.0) })?;
        let flags = libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK;
        let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
        // SAFETY: the attributes are initialised, and the flags those of posix_spawn(3).
        checked(unsafe { libc::posix_spawnattr_setflags(&raw mut attributes.0, flags) })?;
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, and destroyed only here.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_child_has_three_descriptors_and_no_blocked_signal_but_hup() {
        let inherited = std::fs::File::open("/dev/null").expect("a descriptor");
        rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).expect("without close-on-exec");
        let origin =
            Origin { arguments: vec!["sleep".into(), "60".into()], environment: vec![], directory: Some("/".into()) };
        let process = spawn(&origin, Path::new("/bin/sleep"), &[], &[]).expect("spawns");
        let proc = PathBuf::from(format!("/proc/{}", process.pid));
        // Until it sleeps it may still be loading its libraries, by a descriptor of its own.
        while !std::fs::read_to_string(proc.join("wchan")).expect("alive").contains("nanosleep") {
            std::thread::yield_now();
        }
        let fds = std::fs::read_dir(proc.join("fd")).expect("alive").count();
        let status = std::fs::read_to_string(proc.join("status")).expect("alive");
        process.kill();
        while process.reap().expect("ours").is_none() {
            std::thread::yield_now();
        }
        assert_eq!(fds, 3);
        assert!(status.contains("SigBlk:\t0000000000000001"), "{status}");
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).expect("a line");
        // Signals 32 and 33 are the C library's own, and cannot be set.
        assert_eq!(u64::from_str_radix(ignored, 16).expect("hexadecimal") & !(0b11 << 31), 0, "{ignored}");
    }
}
