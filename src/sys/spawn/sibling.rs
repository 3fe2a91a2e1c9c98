//! The next generation as a child of this process's own parent.
//!
//! systemd waits for the end of the main process only if the main process is its own child. It checks this when
//! `MAINPID=` names the process (`service_set_main_pid` in src/core/service.c of 252 and 257, "our child"), and never
//! again. A main process that is a child of the previous generation is killed with SIGKILL where systemd should wait
//! for it, and its death can go unnoticed.

use std::ffi::c_void;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use super::image::Image;
use crate::model::identity::Pid;
use crate::sys::process::Process;
use crate::sys::signals::{Blocked, Signals, checked};

/// The size of the child's stack in bytes; the child makes a few system calls on it.
const STACK: usize = 64 * 1024;
/// On each architecture, the top of the stack is at a multiple of this size.
#[repr(align(16))]
#[derive(Clone, Copy)]
struct Line(#[expect(dead_code, reason = "it is the kernel's")] [u8; 16]);

/// The data of the child, in the memory of its parent, which waits.
struct Shared<'a> {
    image: &'a Image,
    mask: Signals,
    errno: AtomicI32,
}

/// Spawns by clone(2) with `CLONE_PARENT`, and otherwise like posix_spawn(3): the memory is shared, and the calling
/// thread waits until exec (`CLONE_VM | CLONE_VFORK`). Needs Linux 5.9 for close_range(2).
pub(super) fn spawn(image: &Image) -> io::Result<Process> {
    let mut stack = vec![Line([0; 16]); STACK / size_of::<Line>()];
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    let shared = Shared { image, mask: Signals::only(libc::SIGHUP), errno: AtomicI32::new(0) };
    let mut pidfd: libc::c_int = -1;
    // The child inherits this thread's mask, and has this process's handlers until it resets them. All signals are
    // blocked, so that no handler runs in the child.
    let blocked = Blocked::also(&Signals::all())?;
    let flags = libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the pointer is to the end of a stack that no other code uses, aligned for each architecture. `begin`
    // takes its argument as a `Shared`, which lives until the call returns: that is after exec or the child's end. The
    // descriptor is written to an integer that lives as long.
    let pid = unsafe { libc::clone(begin, top, flags, (&raw const shared).cast_mut().cast(), &raw mut pidfd) };
    let error = io::Error::last_os_error();
    drop(blocked);
    let Some(pid) = u32::try_from(pid).ok().filter(|pid| *pid > 0) else { return Err(error) };
    // SAFETY: clone(2) has succeeded, so the descriptor is open, new, and has no other owner.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // A child that could not exec has ended, and the parent reaps it.
    checked(shared.errno.load(Ordering::Acquire))?;
    Ok(Process::of(Pid::new(pid), pidfd))
}

/// Runs in the child. Makes system calls, and nothing else: no allocation, no lock, no panic.
extern "C" fn begin(shared: *mut c_void) -> libc::c_int {
    // SAFETY: `spawn` passes a pointer to a `Shared` that lives for as long as this function runs.
    let shared = unsafe { &*shared.cast_const().cast::<Shared<'_>>() };
    // exec resets caught signals, but not ignored ones. The C library refuses its own two signals, which are not ours
    // to reset.
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the table of handlers is the child's own (no CLONE_SIGHAND); a signal that cannot be set is refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    enter(shared.image, &shared.mask);
    // errno is that of the parent's thread, which shares its memory with the child and waits.
    shared.errno.store(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL), Ordering::Release);
    // SAFETY: ends the child without running the exit handlers that the parent has registered.
    unsafe { libc::_exit(127) }
}

/// Returns only if a call fails.
fn enter(image: &Image, mask: &Signals) {
    if let Some(directory) = &image.directory {
        // SAFETY: a C string that lives long enough.
        if unsafe { libc::chdir(directory.as_ptr()) } != 0 {
            return;
        }
    }
    let (first, last, no_flags): (libc::c_uint, _, libc::c_uint) = (3, libc::c_uint::MAX, 0);
    // SAFETY: the table of descriptors is the child's own (no CLONE_FILES), and the child needs no descriptor above 2.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, no_flags) } != 0 {
        return;
    }
    // SAFETY: the set is initialised; a null pointer for the previous set is allowed.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask.0, std::ptr::null_mut()) };
    let (arguments, environment) = (image.arguments.array.as_ptr(), image.environment.array.as_ptr());
    // SAFETY: the path is a C string, and both arrays end in a null pointer after pointers to C strings.
    unsafe { libc::execve(image.program.as_ptr(), arguments.cast(), environment.cast()) };
}
