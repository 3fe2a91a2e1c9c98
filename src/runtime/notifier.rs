//! Notifications in the sd_notify protocol: to the service manager, or to the previous generation.
//!
//! The receiver may never read: its queue is bounded (`net.unix.max_dgram_qlen`, 10 on many kernels, unix(7)), and
//! sendto(2) on a blocking socket waits for room in it. So nothing here waits. Messages that must arrive are kept and
//! sent again from a task; messages that are repeated anyway are dropped.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::model::identity::Pid;

pub(crate) use sd_notify::NotifyState;

/// The first pause before a message is sent again. The pause doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How many messages are kept at the most. A generation sends two or three for each reload.
const KEPT: usize = 64;

/// Sends notifications to one receiver; without a receiver, nothing is sent. Clones share their queue.
#[derive(Debug, Clone)]
pub(crate) struct Notifier {
    name: Option<OsString>,
    receiver: Option<Arc<Receiver>>,
}

#[derive(Debug)]
struct Receiver {
    name: OsString,
    address: SocketAddr,
    /// One socket for all messages, so that no message is lost for want of a descriptor.
    socket: UnixDatagram,
    queue: Mutex<VecDeque<String>>,
    /// Whether no message is kept any more.
    delivered: watch::Sender<bool>,
}

impl Notifier {
    /// The receiver that a NOTIFY_SOCKET variable names: `/path` or `@abstract` (sd_notify(3)).
    pub(crate) fn new(name: Option<&OsStr>) -> Notifier {
        let receiver = name.and_then(|name| match Receiver::new(name) {
            Ok(receiver) => Some(Arc::new(receiver)),
            Err(error) => {
                tracing::warn!(%error, "cannot notify {name:?}, ignoring");
                None
            }
        });
        Notifier { name: name.map(OsStr::to_owned), receiver }
    }

    /// Whether there is a receiver.
    pub(crate) fn is_some(&self) -> bool {
        self.name.is_some()
    }

    /// Sends all of `states` in one datagram, which the receiver takes as one message. If the queue of the receiver is
    /// full, the message is kept and sent again, in order, until it is delivered. Does not block; needs a tokio
    /// runtime.
    pub(crate) fn send(&self, states: &[NotifyState<'_>]) {
        if let Some(receiver) = &self.receiver {
            receiver.send(text(states));
        }
    }

    /// As [`Notifier::send`], for states that are repeated anyway: if the queue of the receiver is full, or kept
    /// messages wait, the message is dropped. Returns whether the receiver has got it.
    pub(crate) fn try_send(&self, states: &[NotifyState<'_>]) -> bool {
        let Some(receiver) = &self.receiver else { return false };
        let queue = receiver.queue();
        let sent = if queue.is_empty() { receiver.send_now(&text(states)) } else { return false };
        if let Err(error) = &sent {
            tracing::debug!(%error, "cannot notify {:?}, ignoring", self.name);
        }
        sent.is_ok()
    }

    /// Tells the service manager which process is the main process from now on.
    pub(crate) fn main_pid(&self, pid: Pid) {
        self.send(&[NotifyState::MainPid(pid.number())]);
    }

    /// Waits until no message is kept any more: each was delivered, or cannot be delivered. Cancel safe.
    pub(crate) fn delivered(&self) -> impl Future<Output = ()> + Send + use<> {
        let delivered = self.receiver.as_ref().map(|receiver| receiver.delivered.subscribe());
        async move {
            if let Some(mut delivered) = delivered {
                // An error means that the receiver was dropped, and its messages with it.
                let _ = delivered.wait_for(|delivered| *delivered).await;
            }
        }
    }
}

fn text(states: &[NotifyState<'_>]) -> String {
    states.iter().fold(String::new(), |mut text, state| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{state}");
        text
    })
}

impl Receiver {
    fn new(name: &OsStr) -> io::Result<Receiver> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a path nor an abstract name")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let (queue, delivered) = (Mutex::default(), watch::Sender::new(true));
        Ok(Receiver { name: name.to_owned(), address, socket, queue, delivered })
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[expect(clippy::disallowed_methods, reason = "the socket does not block")]
    fn send_now(&self, text: &str) -> io::Result<()> {
        self.socket.send_to_addr(text.as_bytes(), &self.address).map(drop)
    }

    fn send(self: &Arc<Receiver>, text: String) {
        let mut queue = self.queue();
        let is_first = queue.is_empty();
        if is_first {
            match self.send_now(&text) {
                Err(error) if is_passing(&error) => {}
                result => return self.note(result),
            }
        }
        if queue.len() == KEPT {
            queue.pop_front();
            tracing::warn!("{:?} reads nothing: dropped the oldest of {KEPT} notifications", self.name);
        }
        queue.push_back(text);
        self.delivered.send_replace(false);
        if is_first {
            tokio::spawn(self.clone().deliver());
        }
    }

    /// Sends the kept messages, the oldest first, until none is left. There is no event for room in the queue of a
    /// socket that is not connected, and a connected socket would not reach a manager that was restarted.
    async fn deliver(self: Arc<Receiver>) {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let mut queue = self.queue();
            while let Some(text) = queue.front() {
                match self.send_now(text) {
                    Err(error) if is_passing(&error) => break,
                    result => self.note(result),
                }
                queue.pop_front();
                pause = FIRST_PAUSE;
            }
            if queue.is_empty() {
                self.delivered.send_replace(true);
                return;
            }
        }
    }

    fn note(&self, result: io::Result<()>) {
        if let Err(error) = result {
            tracing::warn!(%error, "cannot notify {:?}, ignoring", self.name);
        }
    }
}

/// Whether the same message may be taken later: the queue is full, or memory is short (send(2)).
fn is_passing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM | libc::EINTR))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manager that reads only when it is asked to.
    fn manager() -> (tempfile::TempDir, UnixDatagram, Notifier) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        socket.set_nonblocking(true).expect("set");
        (folder, socket, Notifier::new(Some(path.as_os_str())))
    }

    fn read(socket: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 4096];
        let count = socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..count]).into_owned())
    }

    /// Fills the queue of the manager, whose size is the kernel's choice. Returns how many messages fit.
    fn fill(notifier: &Notifier) -> usize {
        let mut sent = 0;
        while notifier.receiver.as_ref().expect("named").send_now("STATUS=filler\n").is_ok() {
            sent += 1;
        }
        sent
    }

    #[tokio::test(start_paused = true)]
    async fn what_matters_comes_in_order_when_the_manager_reads_again_and_the_rest_is_dropped() {
        let (_folder, socket, notifier) = manager();
        let fillers = fill(&notifier);
        notifier.send(&[NotifyState::Reloading]);
        assert!(!notifier.try_send(&[NotifyState::Status("dropped")]));
        notifier.send(&[NotifyState::MainPid(7)]);
        let waiting = notifier.delivered();
        assert!(tokio::time::timeout(Duration::from_secs(60), waiting).await.is_err(), "nobody has read");
        for _ in 0..fillers {
            assert_eq!(read(&socket).as_deref(), Some("STATUS=filler\n"));
        }
        notifier.delivered().await;
        assert_eq!(read(&socket).as_deref(), Some("RELOADING=1\n"));
        assert_eq!(read(&socket).as_deref(), Some("MAINPID=7\n"));
        assert_eq!(read(&socket), None);
        assert!(notifier.try_send(&[NotifyState::Watchdog]));
        assert_eq!(read(&socket).as_deref(), Some("WATCHDOG=1\n"), "at once, where there is room");
    }

    #[tokio::test(start_paused = true)]
    async fn a_manager_that_never_reads_costs_a_bounded_number_of_messages() {
        let (_folder, socket, notifier) = manager();
        let fillers = fill(&notifier);
        for number in 0..KEPT + 10 {
            notifier.send(&[NotifyState::Status(&number.to_string())]);
        }
        (0..fillers).for_each(|_| drop(read(&socket)));
        // The queue of the manager takes fewer messages at a time than are kept. The time is virtual: the sleep lets the
        // notifier's own pause end.
        let mut last = None;
        while !*notifier.receiver.as_ref().expect("named").delivered.borrow() {
            tokio::time::sleep(LONGEST_PAUSE).await;
            while let Some(text) = read(&socket) {
                last.get_or_insert_with(|| text.clone());
            }
        }
        assert_eq!(last.as_deref(), Some("STATUS=10\n"), "the oldest ones were dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn a_manager_that_is_gone_is_waited_for_by_nobody() {
        let (folder, socket, notifier) = manager();
        fill(&notifier);
        notifier.send(&[NotifyState::MainPid(7)]);
        drop((socket, folder));
        notifier.delivered().await;
    }
}
