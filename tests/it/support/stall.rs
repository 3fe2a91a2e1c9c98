//! Makes system calls of a program and its descendants hang, as a hung disk does, or the memory of a process that is
//! stuck in the kernel. The means is seccomp's user notification (seccomp_unotify(2), Linux 5.5): the kernel reports
//! each call to the test, which lets the call continue or does not respond.
#![allow(unsafe_code, reason = "seccomp(2) has no safe interface in the standard library")]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// The kind of system calls that hang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stall {
    /// Calls that name this path, or a path below it.
    Files(PathBuf),
    /// Calls that name /proc/PID/environ or /proc/PID/cmdline, which the kernel reads from the memory of the process.
    Memory,
    /// execve(2) of any program.
    Exec,
}

/// The stalls of one program. No stall is in force before [`Stalls::begin`].
#[derive(Clone, Debug, Default)]
pub struct Stalls(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    stalled: Vec<Stall>,
    caught: Vec<String>,
    /// The stalled calls, each with the descriptor that takes the response.
    held: Vec<(Arc<OwnedFd>, Notification)>,
}

/// The system calls that name a file, and the index of the argument that names it.
#[rustfmt::skip]
const CALLS: &[(libc::c_long, usize)] = &[
    (libc::SYS_openat, 1), (libc::SYS_statx, 1), (libc::SYS_newfstatat, 1), (libc::SYS_readlinkat, 1),
    (libc::SYS_faccessat, 1), (libc::SYS_faccessat2, 1), (libc::SYS_renameat2, 1), (libc::SYS_unlinkat, 1),
    (libc::SYS_mkdirat, 1), (libc::SYS_execve, 0),
    #[cfg(target_arch = "x86_64")] (libc::SYS_open, 0),
    #[cfg(target_arch = "x86_64")] (libc::SYS_stat, 0),
    #[cfg(target_arch = "x86_64")] (libc::SYS_rename, 0),
    #[cfg(target_arch = "x86_64")] (libc::SYS_unlink, 0),
    #[cfg(target_arch = "x86_64")] (libc::SYS_mkdir, 0),
    #[cfg(target_arch = "x86_64")] (libc::SYS_chmod, 0),
    #[cfg(target_arch = "x86_64")] (libc::SYS_access, 0),
    #[cfg(target_arch = "x86_64")] (libc::SYS_readlink, 0),
    (libc::SYS_bind, 1),
];
/// The offset of the path in `struct sockaddr_un`, in bytes: the path follows the family.
const PATH_OF_SOCKET: u64 = 2;

impl Stalls {
    /// Makes these calls hang from now on.
    pub fn begin(&self, stalled: impl IntoIterator<Item = Stall>) {
        self.state().stalled.extend(stalled);
    }

    /// Lets all stalled calls continue, and removes all stalls.
    pub fn end(&self) {
        let mut state = self.state();
        state.stalled.clear();
        for (listener, asked) in state.held.drain(..) {
            asked.let_go_on(&listener);
        }
    }

    /// The paths of the calls that have been stalled so far.
    pub fn caught(&self) -> Vec<String> {
        self.state().caught.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Installs the filter in the program that this command starts. All descendants of the program inherit the filter.
    pub fn watch(&self, command: &mut Command) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let mut filter = filter();
        let listen = move || {
            let program =
                libc::sock_fprog { len: u16::try_from(filter.len()).unwrap_or(0), filter: filter.as_mut_ptr() };
            // SAFETY: the call takes integers only. Without this call an unprivileged process may set no filter.
            if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the pointer is valid, and the instructions live in this closure.
            let listener = unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                    &raw const program,
                )
            };
            match i32::try_from(listener) {
                Ok(listener) if listener >= 0 => send(theirs.as_raw_fd(), listener),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: the closure only makes system calls, and does not allocate.
        unsafe { command.pre_exec(listen) };
        let stalls = self.clone();
        std::thread::spawn(move || {
            if let Some(listener) = receive(&ours) {
                stalls.answer_all(&Arc::new(listener));
            }
        });
    }

    /// Handles the reported calls until no process of the program is left.
    fn answer_all(&self, listener: &Arc<OwnedFd>) {
        loop {
            let mut ready = [PollFd::new(&**listener, PollFlags::IN)];
            match poll(&mut ready, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Ok(_) if ready[0].revents().contains(PollFlags::IN) => {}
                Ok(_) | Err(_) => return,
            }
            // An error means that the process has ended meanwhile.
            let Ok(asked) = Notification::receive(listener) else { continue };
            let path = asked.path();
            let mut state = self.state();
            match path.filter(|path| state.stalled.iter().any(|stall| stall.holds(asked.call(), path))) {
                Some(path) => {
                    state.caught.push(path);
                    state.held.push((listener.clone(), asked));
                }
                None => asked.let_go_on(listener),
            }
        }
    }
}

impl Stall {
    fn holds(&self, call: libc::c_long, path: &str) -> bool {
        match self {
            Stall::Exec => call == libc::SYS_execve,
            Stall::Files(place) => Path::new(path).starts_with(place),
            Stall::Memory => {
                let process = path.strip_prefix("/proc/").and_then(|rest| rest.split_once('/'));
                process.is_some_and(|(pid, what)| pid.parse::<u32>().is_ok() && matches!(what, "environ" | "cmdline"))
            }
        }
    }
}

/// `struct seccomp_notif` (include/uapi/linux/seccomp.h).
#[derive(Debug)]
#[repr(C)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    instruction: u64,
    arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

const GO_ON: u32 = 1;
/// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND`.
const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;

impl Notification {
    fn receive(listener: &OwnedFd) -> io::Result<Notification> {
        let mut asked = MaybeUninit::<Notification>::zeroed();
        // SAFETY: the kernel writes no more than the structure, whose size is part of the ioctl number.
        match unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, asked.as_mut_ptr()) } {
            // SAFETY: every bit pattern is a valid value of the structure.
            0 => Ok(unsafe { asked.assume_init() }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn let_go_on(&self, listener: &OwnedFd) {
        let response = Response { id: self.id, value: 0, error: 0, flags: GO_ON };
        // SAFETY: the kernel reads the structure, whose size is part of the ioctl number. An error means that the
        // process has ended.
        unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw const response) };
    }

    fn call(&self) -> libc::c_long {
        self.number.into()
    }

    /// The path that the call names, if the memory of the process can still be read.
    fn path(&self) -> Option<String> {
        let (_, argument) = CALLS.iter().find(|(number, _)| *number == self.call())?;
        let is_socket = self.call() == libc::SYS_bind;
        let place = self.arguments[*argument] + if is_socket { PATH_OF_SOCKET } else { 0 };
        let memory = File::open(format!("/proc/{}/mem", self.pid)).ok()?;
        let mut text = Vec::new();
        // The text is read in pieces, because the page after it may not be mapped.
        while !text.contains(&0) && text.len() < 4096 {
            let mut piece = [0; 64];
            let count = memory.read_at(&mut piece, place + text.len() as u64).ok().filter(|count| *count > 0)?;
            text.extend(&piece[..count]);
        }
        let end = text.iter().position(|byte| *byte == 0)?;
        String::from_utf8(text[..end].to_vec()).ok()
    }
}

fn filter() -> Vec<libc::sock_filter> {
    let i = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // Loads the number of the system call, the first word of struct seccomp_data (seccomp(2)).
    let mut filter = vec![i(0x20, 0, 0, 0)];
    for (number, _) in CALLS {
        filter.push(i(0x15, 0, 1, u32::try_from(*number).expect("a small number")));
        filter.push(i(0x06, 0, 0, libc::SECCOMP_RET_USER_NOTIF));
    }
    filter.push(i(0x06, 0, 0, libc::SECCOMP_RET_ALLOW));
    filter
}

/// Sends a descriptor. This function must not allocate, because it runs between fork and exec.
fn send(through: i32, descriptor: i32) -> io::Result<()> {
    #[repr(C)]
    struct Control {
        header: libc::cmsghdr,
        descriptor: i32,
    }
    let length = size_of::<libc::cmsghdr>() + size_of::<i32>();
    let header = libc::cmsghdr { cmsg_len: length, cmsg_level: libc::SOL_SOCKET, cmsg_type: libc::SCM_RIGHTS };
    let mut control = Control { header, descriptor };
    let mut byte = [1_u8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: a `msghdr` of zeros is valid.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    // SAFETY: the message points to a byte and to a control message that live until the call returns.
    match unsafe { libc::sendmsg(through, &raw const message, 0) } {
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Receives a descriptor. `None` if the other end was closed before a message came.
fn receive(through: impl AsFd) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(through, &mut [io::IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })
}
