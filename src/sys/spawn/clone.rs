//! A new process by clone(2), as posix_spawn(3) makes one: until exec the child shares the memory of this process, and
//! the calling thread waits (`CLONE_VM | CLONE_VFORK`). So the page tables of a process that may be large are not
//! copied, and its threads do not cause a page fault for each page that they write to in that moment.
//!
//! posix_spawn(3) itself cannot give the child attributes other than those of this process, and cannot make the child a
//! child of this process's own parent. systemd waits for the end of the main process only if the main process is its
//! own child. It checks this when `MAINPID=` names the process (`service_set_main_pid` in src/core/service.c of 252 and
//! 257, "our child"), and never again. A main process that is a child of the previous generation is killed with SIGKILL
//! where systemd should wait for it, and its death can go unnoticed.

use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::c_void;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{Pid, Resource, chdir, getrlimit, setpgid};

use super::descriptors::{self, Descriptors};
use super::image::{Group, Image};
use crate::sys::attributes::Attributes;
use crate::sys::process::Process;
use crate::sys::signals::{Blocked, Signals};

/// The size of the child's stack in bytes; the child makes a few system calls on it.
const STACK: usize = 64 * 1024;
/// On each architecture, the top of the stack is at a multiple of this size.
#[repr(align(16))]
#[derive(Clone, Copy)]
struct Line(#[expect(dead_code, reason = "it is the kernel's")] [u8; 16]);

/// Whose child the new process becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChildOf {
    ThisProcess,
    /// The parent of this process, where the kernel allows that.
    OurParent,
}

/// What the child does and has before exec.
pub(super) struct Birth<'a> {
    pub(super) image: &'a Image,
    pub(super) attributes: &'a Attributes,
    /// The signals that are blocked in the child when it begins.
    pub(super) mask: Signals,
    pub(super) group: Group,
    pub(super) descriptors: Descriptors,
    /// What becomes descriptor 3, 4, … of the child.
    pub(super) listeners: &'a [RawFd],
}

/// The step that has failed, and the error.
#[derive(Debug)]
pub(super) enum Failed {
    Clone(io::Error),
    Directory(Errno),
    Group(Errno),
    Descriptors(Errno),
    /// With the soft limit of the child's stack, on which the size of the arguments and the environment depends.
    Exec {
        errno: Errno,
        stack: Option<u64>,
    },
}

/// The data of the child, in the memory of its parent, which waits.
struct Shared<'a> {
    birth: &'a Birth<'a>,
    inherited: Attributes,
    failed: Cell<Option<Failed>>,
}

/// Blocks the thread until exec has happened. A child that could not exec has ended and is reaped, by this process or
/// by its own parent.
pub(super) fn spawn(birth: &Birth<'_>, child_of: ChildOf) -> Result<Process, Failed> {
    let (pidfd, sibling) = (libc::CLONE_PIDFD, libc::CLONE_PIDFD | libc::CLONE_PARENT);
    // The first process of a PID namespace has no siblings. gVisor has no CLONE_PIDFD (`SupportedCloneFlags` in
    // pkg/sentry/kernel/task_clone.go). A seccomp filter may refuse any flag.
    let ways = match child_of {
        ChildOf::ThisProcess => &[pidfd, 0][..],
        ChildOf::OurParent => &[sibling, pidfd, 0],
    };
    let shared = Shared { birth, inherited: Attributes::inherited(), failed: Cell::new(None) };
    let _slack = birth.attributes.timer_slack();
    let mut spawned = Err(io::Error::from(io::ErrorKind::InvalidInput));
    for flags in ways {
        spawned = clone(&shared, *flags);
        match spawned.as_ref().map_err(io::Error::raw_os_error) {
            Err(Some(libc::ENOSYS | libc::EINVAL | libc::EPERM)) => {}
            Ok(_) | Err(_) => break,
        }
    }
    let process = spawned.map_err(Failed::Clone)?;
    match shared.failed.into_inner() {
        None => Ok(process),
        Some(failed) => {
            process.wait();
            Err(failed)
        }
    }
}

fn clone(shared: &Shared<'_>, flags: libc::c_int) -> io::Result<Process> {
    let mut stack = vec![Line([0; 16]); STACK / size_of::<Line>()];
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    let mut pidfd: libc::c_int = -1;
    let all = flags | libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let shared = std::ptr::from_ref(shared).cast_mut().cast();
    // The child inherits this thread's mask, and has this process's handlers until it resets them. All signals are
    // blocked, so that no handler runs in the child.
    let blocked = Blocked::also(&Signals::all())?;
    // SAFETY: the pointer is to the end of a stack that no other code uses, aligned for each architecture. `begin`
    // takes its argument as a `Shared`, which lives until the call returns: that is after exec or the child's end. The
    // descriptor is written to an integer that lives as long.
    let pid = unsafe { libc::clone(begin, top, all, shared, &raw mut pidfd) };
    let error = io::Error::last_os_error();
    drop(blocked);
    let Some(pid) = Pid::from_raw(pid.max(0)) else { return Err(error) };
    if flags & libc::CLONE_PIDFD == 0 {
        return Process::hold(pid);
    }
    // SAFETY: clone(2) has succeeded, so the descriptor is open, new, and has no other owner.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Process::of(pid, pidfd))
}

/// Runs in the child. Makes system calls, and nothing else: no allocation, no lock, no panic.
extern "C" fn begin(shared: *mut c_void) -> libc::c_int {
    // SAFETY: `clone` passes a pointer to a `Shared` that lives for as long as this function runs.
    let shared = unsafe { &*shared.cast_const().cast::<Shared<'_>>() };
    // exec resets caught signals, but not ignored ones. The C library refuses its own two signals, which are not ours
    // to set.
    for signal in 1..=libc::SIGRTMAX() {
        let ignores = shared.birth.attributes.ignores(signal);
        let disposition = if ignores { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: the table of handlers is the child's own (no CLONE_SIGHAND); a signal that cannot be set is refused.
        unsafe { libc::signal(signal, disposition) };
    }
    let Err(failed) = enter(shared.birth, &shared.inherited);
    // The parent reads this value when the child has ended.
    shared.failed.set(Some(failed));
    // SAFETY: ends the child without running the exit handlers that the parent has registered.
    unsafe { libc::_exit(127) }
}

/// Returns only if a call fails.
fn enter(birth: &Birth<'_>, inherited: &Attributes) -> Result<Infallible, Failed> {
    let Birth { image, attributes, mask, group, descriptors, listeners } = birth;
    match group {
        Group::Own => setpgid(None, None).map_err(Failed::Group)?,
        Group::Ours => attributes.restore_group(inherited),
    }
    if let Some(directory) = &image.directory {
        chdir(directory.as_c_str()).map_err(Failed::Directory)?;
    }
    let first_free = descriptors::place(listeners).map_err(Failed::Descriptors)?;
    descriptors.close(first_free).map_err(Failed::Descriptors)?;
    if let Some(own_pid) = &image.own_pid {
        own_pid.set(rustix::process::getpid());
    }
    attributes.restore(inherited);
    // SAFETY: the set is initialised; a null pointer for the previous set is allowed.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask.0, std::ptr::null_mut()) };
    let (arguments, environment) = (image.arguments.array.as_ptr(), image.environment.array.as_ptr());
    // SAFETY: the path is a C string, and both arrays end in a null pointer after pointers to C strings.
    unsafe { libc::execve(image.program.as_ptr(), arguments, environment) };
    // errno is that of the parent's thread, which shares its memory with the child and waits.
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
    Err(Failed::Exec { errno: Errno::from_raw_os_error(errno), stack: getrlimit(Resource::Stack).current })
}
