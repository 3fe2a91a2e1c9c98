//! The next generation as a child of this process's own parent.
//!
//! systemd waits for the end of the main process only if that is a child of its own, and it looks when `MAINPID=` names it
//! (`service_set_main_pid` in src/core/service.c of 252 and 257, "our child"; never again). One that is a child of the
//! generation before is killed with SIGKILL where it should be waited for, and its death can go unnoticed.

use std::ffi::c_void;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use super::image::Image;
use crate::model::identity::Pid;
use crate::sys::process::Process;
use crate::sys::signals::{Blocked, Signals, checked};

/// In bytes; the child makes a few system calls on it.
const STACK: usize = 64 * 1024;
/// The stack of each architecture has its top at a multiple of this.
#[repr(align(16))]
#[derive(Clone, Copy)]
struct Line(#[expect(dead_code, reason = "it is the kernel's")] [u8; 16]);

/// What the child works with: in the memory of its parent, which waits.
struct Shared<'a> {
    image: &'a Image,
    mask: Signals,
    errno: AtomicI32,
}

/// By clone(2) with `CLONE_PARENT`, and otherwise like posix_spawn(3): the memory is shared, and the calling thread waits
/// until exec (`CLONE_VM | CLONE_VFORK`). Linux 5.9 for close_range(2).
pub(super) fn spawn(image: &Image) -> io::Result<Process> {
    let mut stack = vec![Line([0; 16]); STACK / size_of::<Line>()];
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    let shared = Shared { image, mask: Signals::only(libc::SIGHUP), errno: AtomicI32::new(0) };
    let mut pidfd: libc::c_int = -1;
    // The child has this thread's mask, and this process's handlers until it has reset them: none of them runs in it.
    let blocked = Blocked::also(&Signals::all())?;
    let flags = libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the pointer is to the end of a stack that nobody else uses, aligned for each architecture; `begin` takes what
    // it is given as a `Shared`, which lives until the call returns, for that is after exec or the child's end; the
    // descriptor is written to an integer that lives as long.
    let pid = unsafe { libc::clone(begin, top, flags, (&raw const shared).cast_mut().cast(), &raw mut pidfd) };
    let error = io::Error::last_os_error();
    drop(blocked);
    let Some(pid) = u32::try_from(pid).ok().filter(|pid| *pid > 0) else { return Err(error) };
    // SAFETY: clone(2) has succeeded, and with it the descriptor is open, new, and nobody else's.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // One that could not exec has ended, and the parent reaps it.
    checked(shared.errno.load(Ordering::Acquire))?;
    Ok(Process::of(Pid::new(pid), pidfd))
}

/// The child. It makes system calls, and nothing else: no allocation, no lock, no panic.
extern "C" fn begin(shared: *mut c_void) -> libc::c_int {
    // SAFETY: `spawn` passes a pointer to a `Shared` that lives for as long as this runs.
    let shared = unsafe { &*shared.cast_const().cast::<Shared<'_>>() };
    // Caught signals would be reset by exec, ignored ones would not. The C library's own two are refused, and are not ours.
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the table of handlers is the child's own (no CLONE_SIGHAND); those that cannot be set are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    enter(shared.image, &shared.mask);
    // The errno of this thread, which is the parent's, and waits.
    shared.errno.store(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL), Ordering::Release);
    // SAFETY: ends the child without running what the parent has registered for its own end.
    unsafe { libc::_exit(127) }
}

/// Comes back only if it fails.
fn enter(image: &Image, mask: &Signals) {
    if let Some(directory) = &image.directory {
        // SAFETY: a C string that lives long enough.
        if unsafe { libc::chdir(directory.as_ptr()) } != 0 {
            return;
        }
    }
    let (first, last, no_flags): (libc::c_uint, _, libc::c_uint) = (3, libc::c_uint::MAX, 0);
    // SAFETY: the table of descriptors is the child's own (no CLONE_FILES), and it needs none of those.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, no_flags) } != 0 {
        return;
    }
    // SAFETY: the set is initialised; a null pointer for the old one is allowed.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask.0, std::ptr::null_mut()) };
    let (arguments, environment) = (image.arguments.array.as_ptr(), image.environment.array.as_ptr());
    // SAFETY: the path is a C string, and both arrays end in a null pointer after pointers to C strings.
    unsafe { libc::execve(image.program.as_ptr(), arguments.cast(), environment.cast()) };
}
