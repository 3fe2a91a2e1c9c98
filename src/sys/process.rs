//! Starting the next generation with nothing but descriptors 0, 1 and 2, and holding it by pidfd.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use rustix::fs::{Access, access};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::during;
use crate::model::identity::Pid;

/// How this process was started, taken once, before the application changes anything.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    /// The directory's *path*: if it leads through a symlink that is flipped, the next generation follows it anew.
    directory: Option<PathBuf>,
}

impl Origin {
    /// Takes it from the running process.
    pub(crate) fn capture() -> Origin {
        Origin {
            arguments: std::env::args_os().collect(),
            environment: std::env::vars_os().collect(),
            directory: start_directory(),
        }
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&OsStr> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    /// Finds the executable by the name that this process was started with, and looks whether it can be executed.
    ///
    /// Never through /proc/self/exe, which is the *old* file after a deploy has replaced it. A name without a slash is
    /// looked up in PATH, as it was at the start; symlinks are followed anew each time.
    ///
    /// # Errors
    /// Names the path, and what is wrong with it or with the start directory.
    pub(crate) fn executable(&self) -> Result<PathBuf, String> {
        let name = self.arguments.first().filter(|name| !name.is_empty());
        let name =
            Path::new(name.ok_or("the process was started without a name (argv[0]), so its executable is not known")?);
        let directory =
            self.directory.as_deref().ok_or("the directory that the process was started in was gone already then")?;
        std::fs::metadata(directory)
            .map_err(|error| format!("the start directory {} cannot be entered: {error}", directory.display()))?;
        if name.components().count() > 1 || name.is_absolute() {
            let path = directory.join(name);
            return can_execute(&path).map(|()| path);
        }
        let path = self.variable("PATH").unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"));
        std::env::split_paths(path)
            .map(|folder| directory.join(folder).join(name))
            .find(|candidate| can_execute(candidate).is_ok())
            .ok_or_else(|| format!("the executable {} is not in PATH", name.display()))
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

fn can_execute(path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| format!("the executable {} cannot be found: {error}", path.display()))?;
    if !metadata.is_file() {
        return Err(format!("the executable {} is not a file", path.display()));
    }
    access(path, Access::EXEC_OK).map_err(|error| format!("{} is not executable: {error}", path.display()))
}

/// A child process that cannot be mistaken for another one with the same pid.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pidfd: OwnedFd,
}

impl Process {
    /// Starts `path` as this process was started: arguments, environment (less `removed`, plus `added`), directory.
    ///
    /// Descriptors above 2 are closed at exec, those without close-on-exec included; every signal has its default
    /// disposition, and none is blocked but SIGHUP: the next generation unblocks it when it can handle it, so that a HUP
    /// sent to the whole group does not kill it in its first millisecond. Blocks the thread until exec has happened.
    ///
    /// # Errors
    /// What fork(2), chdir(2) or execve(2) say.
    pub(crate) fn spawn(
        origin: &Origin,
        path: &Path,
        removed: &[&str],
        added: &[(&str, OsString)],
    ) -> io::Result<Process> {
        let image = Image::new(origin, path, removed, added)?;
        let mut command = Command::new(path);
        if let Some(directory) = &origin.directory {
            command.current_dir(directory);
        }
        // SAFETY: the closure only makes system calls that signal-safety(7) allows; it does not allocate, lock or panic.
        unsafe { command.pre_exec(move || before_exec().and_then(|()| image.execute())) };
        let child = command.spawn().map_err(|error| during(format_args!("execute {}", path.display()), error))?;
        Process::hold(child)
    }

    fn hold(mut child: Child) -> io::Result<Process> {
        let number = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let number = number.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        match pidfd_open(number, PidfdFlags::NONBLOCK).or_else(|_| pidfd_open(number, PidfdFlags::empty())) {
            Ok(pidfd) => Ok(Process { child, pidfd }),
            Err(error) => {
                // A child that cannot be held is not left behind.
                let _ = child.kill();
                let _ = child.wait();
                Err(during("open a pidfd", error))
            }
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::new(self.child.id())
    }

    /// Ends it with SIGKILL. One that is gone already is left as it is.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Reaps it; `None` while it runs.
    pub(crate) fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Becomes readable when it ends (pidfd_open(2), Linux 5.3). Needs a tokio runtime.
    pub(crate) fn end(&self) -> io::Result<AsyncFd<OwnedFd>> {
        self.pidfd.try_clone().and_then(watch)
    }
}

fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd answers with the same open descriptor for as long as it lives, and it moves into the AsyncFd.
    unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.map_err(|e| during("watch a pidfd", e))
}

/// What execve(2) takes, made before the fork.
///
/// The standard library would call execvp(3), which gives a file that is no program to /bin/sh: a binary that was cut
/// short would be run as a script.
struct Image {
    path: CString,
    arguments: Pointers,
    environment: Pointers,
}

impl Image {
    fn new(origin: &Origin, path: &Path, removed: &[&str], added: &[(&str, OsString)]) -> io::Result<Image> {
        let kept = origin.environment.iter().filter(|(key, _)| !removed.iter().any(|name| key == name));
        let kept = kept.map(|(key, value)| (key.as_os_str(), value));
        let environment = kept.chain(added.iter().map(|(key, value)| (OsStr::new(key), value)));
        let assignments = environment.map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()].concat());
        Ok(Image {
            path: CString::new(path.as_os_str().as_bytes())?,
            arguments: Pointers::to(origin.arguments.iter().map(|a| a.as_bytes().to_vec()))?,
            environment: Pointers::to(assignments)?,
        })
    }

    /// Returns only if it fails.
    fn execute(&self) -> io::Result<()> {
        // SAFETY: the path is a C string, and both arrays end in a null pointer after pointers to C strings that live as
        // long as `self`.
        unsafe { libc::execve(self.path.as_ptr(), self.arguments.array.as_ptr(), self.environment.array.as_ptr()) };
        Err(io::Error::last_os_error())
    }
}

/// C strings, and an array of pointers to them that ends in a null pointer.
struct Pointers {
    array: Vec<*const libc::c_char>,
    _strings: Vec<CString>,
}

impl Pointers {
    fn to(strings: impl Iterator<Item = Vec<u8>>) -> io::Result<Pointers> {
        let strings = strings.map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let array = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Ok(Pointers { array, _strings: strings })
    }
}

// SAFETY: the pointers lead to the heap memory of the strings beside them, which nobody changes.
unsafe impl Send for Pointers {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Pointers {}

/// A process of which only the pid was told: held from now on, so that a later one with the same pid is not meant.
#[derive(Debug)]
pub(crate) struct Stranger(OwnedFd);

impl Stranger {
    /// Holds it; `None` if it is gone.
    pub(crate) fn hold(pid: Pid) -> Option<Stranger> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid.number()).ok()?)?;
        pidfd_open(pid, PidfdFlags::empty()).ok().map(Stranger)
    }

    /// Sends it a signal; `false` if it is gone.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        pidfd_send_signal(&self.0, signal).is_ok()
    }

    /// Waits until it is gone, and with it every descriptor that it had: `exit_files` comes before `exit_notify` in do_exit
    /// (kernel/exit.c, Linux 6.18). Needs a tokio runtime. Cancel safe.
    pub(crate) async fn gone(&self) {
        let Ok(end) = self.0.try_clone().and_then(watch) else { return };
        // An error is one of the runtime that shuts down.
        let _ = end.readable().await;
    }

    pub(crate) fn is_alive(&self) -> bool {
        let mut fds = [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&now)) == Ok(0)
    }
}

/// How a process ended, for people.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
            format!("was killed by {name} ({signal})")
        }
        (None, None) => "ended".to_owned(),
    }
}

/// Lets SIGHUP in again after [`Process::spawn`] of the generation before has blocked it.
pub(crate) fn unblock_hup() -> io::Result<()> {
    mask_hup(libc::SIG_UNBLOCK)
}

fn mask_hup(how: libc::c_int) -> io::Result<()> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset(3) writes the whole set that the valid pointer points to.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was initialised above; SIGHUP is a signal.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGHUP) };
    // SAFETY: the set is initialised and only read; a null pointer for the old one is allowed.
    match unsafe { libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn before_exec() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is a valid disposition; signals that cannot have one (KILL, STOP, the C library's own) are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    mask_hup(libc::SIG_SETMASK)?;
    // SAFETY: close_range(2) takes three integers. Linux 5.11 marks the descriptors; they close at exec.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked == 0 {
        return Ok(());
    }
    for fd in 3..65536 {
        // SAFETY: fcntl(2) with F_SETFD changes a flag of a descriptor, or fails with EBADF where there is none.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started_as(name: &str, directory: &Path) -> Origin {
        Origin {
            arguments: vec![name.into()],
            environment: vec![("PATH".into(), "/nowhere:/bin:/usr/bin".into())],
            directory: Some(directory.to_owned()),
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
            let error = started_as(name, folder.path()).executable().expect_err(name);
            assert!(error.contains(why), "{name}: {error}");
        }
        let gone = folder.path().join("gone");
        assert!(started_as("/bin/sh", &gone).executable().expect_err("no directory").contains("start directory"));
    }

    #[test]
    fn a_child_has_three_descriptors_and_no_blocked_signal_but_hup() {
        let inherited = std::fs::File::open("/dev/null").expect("a descriptor");
        rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).expect("without close-on-exec");
        let origin =
            Origin { arguments: vec!["sleep".into(), "60".into()], environment: vec![], directory: Some("/".into()) };
        let mut process = Process::spawn(&origin, Path::new("/bin/sleep"), &[], &[]).expect("spawns");
        let proc = PathBuf::from(format!("/proc/{}", process.pid()));
        // Until it sleeps it may still be loading its libraries, by a descriptor of its own.
        while !std::fs::read_to_string(proc.join("wchan")).expect("alive").contains("nanosleep") {
            std::thread::yield_now();
        }
        let fds = std::fs::read_dir(proc.join("fd")).expect("alive").count();
        let status = std::fs::read_to_string(proc.join("status")).expect("alive");
        process.kill();
        process.child.wait().expect("ends");
        assert_eq!(fds, 3);
        assert!(status.contains("SigBlk:\t0000000000000001"), "{status}");
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).expect("a line");
        // Signals 32 and 33 are the C library's own, and cannot be set.
        assert_eq!(u64::from_str_radix(ignored, 16).expect("hexadecimal") & !(0b11 << 31), 0, "{ignored}");
    }
}
