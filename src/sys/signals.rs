//! Sets of signals, and signals that are blocked in one thread for a moment.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;

/// A set of signals (sigsetops(3)).
#[derive(Clone, Copy)]
pub(super) struct Signals(pub(super) libc::sigset_t);

impl Signals {
    pub(super) fn all() -> Signals {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigfillset(3) writes the whole set that the valid pointer points to.
        unsafe { libc::sigfillset(set.as_mut_ptr()) };
        // SAFETY: the call above has initialised it.
        Signals(unsafe { set.assume_init() })
    }

    pub(super) fn none() -> Signals {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset(3) writes the whole set that the valid pointer points to.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: the call above has initialised it.
        Signals(unsafe { set.assume_init() })
    }

    /// The set that contains only `signal`, which is one of libc's constants.
    pub(super) fn only(signal: libc::c_int) -> Signals {
        let Signals(mut set) = Signals::none();
        // SAFETY: the set is initialised; a number that is no signal is refused.
        unsafe { libc::sigaddset(&raw mut set, signal) };
        Signals(set)
    }

    /// Unblocks these signals in this thread.
    pub(super) fn unblock(&self) -> io::Result<()> {
        // SAFETY: the set is initialised and only read; a null pointer for the previous set is allowed.
        checked(unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const self.0, std::ptr::null_mut()) })
    }
}

/// Signals that are blocked in this thread until the guard is dropped, in the same thread: the guard is not `Send`.
pub(super) struct Blocked {
    before: Signals,
    _in_this_thread: std::marker::PhantomData<*const ()>,
}

impl Blocked {
    /// Blocks `signals` in addition to the signals that are blocked already.
    pub(super) fn also(signals: &Signals) -> io::Result<Blocked> {
        let mut before = Signals::none();
        // SAFETY: both sets are initialised; the previous set is written.
        checked(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals.0, &raw mut before.0) })?;
        Ok(Blocked { before, _in_this_thread: std::marker::PhantomData })
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set is initialised. A set that was valid before is not refused.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before.0, std::ptr::null_mut()) };
    }
}

/// Converts the result of a POSIX threads call, which returns its errno.
pub(super) fn checked(errno: libc::c_int) -> io::Result<()> {
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}
