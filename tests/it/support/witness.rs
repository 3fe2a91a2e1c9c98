//! The log lines and notifications of the processes that a test has started, and waiting for more.

use std::io::{self, BufRead, BufReader};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::set_socket_passcred,
    sockopt::set_socket_recv_buffer_size,
};

/// A datagram of the sd_notify protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The pid of the sender, from the kernel (SCM_CREDENTIALS).
    pub pid: u32,
    /// The time of receipt.
    pub at: Instant,
    /// Lines of the form `KEY=value`.
    pub text: String,
}

impl Notification {
    pub fn value(&self, key: &str) -> Option<&str> {
        let mut lines = self.text.lines();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }
}

/// The main process as a service manager sees it. Only the current main process may name another one.
pub fn main_pid(first: u32, notifications: &[Notification]) -> u32 {
    notifications.iter().fold(first, |main, notification| {
        let named = notification.value("MAINPID").and_then(|v| v.parse().ok());
        named.filter(|_| notification.pid == main).unwrap_or(main)
    })
}

/// The address in a line such as `… listening … generation=1 address=127.0.0.1:34567`, unless the line is of a later
/// generation.
pub fn address_in(line: &str) -> Option<SocketAddr> {
    let value = |key: &str| {
        let mut words = line.split_whitespace();
        let value = words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
        Some(value.trim_matches(|c| matches!(c, '"' | ',')))
    };
    if !line.contains("listening") || value("generation").is_some_and(|g| g != "1") {
        return None;
    }
    value("address")?.parse().ok()
}

#[derive(Default)]
pub struct Seen {
    pub lines: Vec<String>,
    pub notifications: Vec<Notification>,
    /// True once no process has the write end of the log open.
    log_ended: bool,
}

#[derive(Default)]
pub struct Witness {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Witness {
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen());
        self.changed.notify_all();
    }

    /// Waits until `look` finds something. Gives up when the time is over, or soon after the last process has ended.
    pub fn wait<T>(
        &self,
        within: Duration,
        all_gone: impl Fn() -> bool,
        mut look: impl FnMut(&Seen) -> Option<T>,
    ) -> Option<T> {
        let mut deadline = Instant::now() + within;
        let mut gone = false;
        let mut seen = self.seen();
        loop {
            if let Some(found) = look(&seen) {
                return Some(found);
            }
            if seen.log_ended && !gone && all_gone() {
                // The reader threads may not have delivered all output of the ended processes yet.
                gone = true;
                deadline = deadline.min(Instant::now() + Duration::from_secs(1));
            }
            let mut left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            if seen.log_ended {
                // A process closes the log a moment before it has ended, and its end does not wake this thread.
                left = left.min(Duration::from_millis(50));
            }
            let waited = self.changed.wait_timeout(seen, left);
            seen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Reads the log in a thread, which ends when the last process has closed the log.
    pub fn read_log(self: &Arc<Self>, log: io::PipeReader) {
        let witness = Arc::clone(self);
        thread::spawn(move || {
            let mut log = BufReader::new(log);
            let mut line = Vec::new();
            while matches!(log.read_until(b'\n', &mut line), Ok(1..)) {
                let text = without_colour(String::from_utf8_lossy(&line).trim_end());
                witness.change(|seen| seen.lines.push(text));
                line.clear();
            }
            witness.change(|seen| seen.log_ended = true);
        });
    }
}

/// Removes colour codes, which some loggers write to pipes too. A code within `address=` would hide the address.
fn without_colour(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let mut text = parts.next().unwrap_or("").to_owned();
    for part in parts {
        let end = part.find(|c: char| c.is_ascii_alphabetic());
        text.push_str(end.map_or("", |end| &part[end + 1..]));
    }
    text
}

/// The service manager's end of NOTIFY_SOCKET. A thread reads it until this is dropped.
pub struct NotifySocket {
    socket: UnixDatagram,
    reader: Option<JoinHandle<()>>,
}

impl NotifySocket {
    pub fn bind(path: &Path, witness: &Arc<Witness>) -> io::Result<NotifySocket> {
        let socket = UnixDatagram::bind(path)?;
        // Set before any process knows the path, because an earlier datagram would come without credentials.
        set_socket_passcred(&socket, true)?;
        set_socket_recv_buffer_size(&socket, 4 << 20)?;
        let receiver = socket.try_clone()?;
        let witness = Arc::clone(witness);
        let reader = thread::spawn(move || {
            while let Ok(Some(notification)) = receive(&receiver) {
                witness.change(|seen| seen.notifications.push(notification));
            }
        });
        Ok(NotifySocket { socket, reader: Some(reader) })
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        // Wakes the reader, which then receives an empty message without credentials.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Receives one notification. `None` once the socket is shut down: recvmsg then returns no data and no credentials.
fn receive(socket: &UnixDatagram) -> io::Result<Option<Notification>> {
    let mut bytes = vec![0; 64 * 1024];
    // The buffer has no room for a descriptor, so the kernel closes the descriptor of a BARRIER=1 message. The sender
    // waits for that close.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = loop {
        let mut buffers = [io::IoSliceMut::new(&mut bytes)];
        match recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid),
        _ => None,
    });
    Ok(sender.map(|pid| Notification {
        pid: pid.as_raw_nonzero().get().unsigned_abs(),
        at: Instant::now(),
        text: String::from_utf8_lossy(&bytes[..length]).into_owned(),
    }))
}
