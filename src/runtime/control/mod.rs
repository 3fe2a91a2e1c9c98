//! The control socket: HTTP/1.1 on a Unix socket, for the user of this process and for root.
//!
//! The control socket does not slow the server down: its clients cost a bounded number of tasks and bytes, and take the
//! time of the driver only for the moment of each question.

mod clients;
mod endpoint;
mod follow;
mod metrics;
mod routes;

use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use self::clients::{Client, Clients};
use super::accept::EXHAUSTED;
use super::offload::{self, FILES_MAX, Lane, Stalled};
use crate::sys::control_socket::{self, ControlSocket, Refused};

pub(crate) use endpoint::{ControlTarget, Counts, LiveEndpoint, looks};
pub(crate) use routes::metrics_service;

/// How long a client may take to send a request, and how long a connection may be idle after an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The size limit for the header of a request, in bytes.
const HEADER_MAX: usize = 16 * 1024;
/// How long the close waits for answers under way.
const FAREWELL: Duration = Duration::from_secs(2);

/// The control socket of this generation: open already, or opened when the generation is live.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    control_target: ControlTarget,
    open: Option<Open>,
    lane: Lane,
    /// Whether the path is still to be taken over, because its disk did not answer.
    is_due: Arc<AtomicBool>,
}

/// A socket that was taken over by its path, and is not answered yet.
#[derive(Debug)]
pub(crate) struct Taken {
    socket: ControlSocket,
    listener: StdListener,
}

#[derive(Debug)]
struct Open {
    socket: ControlSocket,
    end: watch::Sender<bool>,
    ended: tokio::task::JoinHandle<()>,
}

impl Control {
    /// A control socket that is opened when this generation is live, in place of that of the previous generation.
    pub(crate) fn later(path: PathBuf, control_target: ControlTarget) -> Control {
        Control { path, control_target, open: None, lane: Lane::new(1), is_due: Arc::default() }
    }

    /// Opens the control socket of the first generation of an instance.
    ///
    /// # Errors
    /// [`Refused::Taken`] if a living process has a socket at this path.
    #[expect(clippy::disallowed_methods, reason = "before the server begins")]
    pub(crate) fn claim(path: &Path, control_target: ControlTarget) -> Result<Control, Refused> {
        let (socket, listener) = control_socket::claim(path)?;
        let open = serve(socket, listener, control_target.clone())?;
        Ok(Control { open: Some(open), ..Control::later(path.to_owned(), control_target) })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Takes over the path for [`Control::open`]; `None` if this was done already, or fails. Waits for the disk for
    /// [`FILES_MAX`] at most. Errors are logged.
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(crate) fn take_over(&self) -> impl Future<Output = Option<Taken>> + Send + use<> {
        let (path, lane, is_due) = (self.path.clone(), self.lane.clone(), self.is_due.clone());
        let is_wanted = self.open.is_none() || self.is_due();
        async move {
            if !is_wanted {
                return None;
            }
            let by = Some(Instant::now() + FILES_MAX);
            match lane.run_within(FILES_MAX, move || control_socket::take_over(&path, by)).await {
                Ok(Ok((socket, listener))) => {
                    is_due.store(false, Ordering::Relaxed);
                    Some(Taken { socket, listener })
                }
                Ok(Err(error)) if error.kind() != io::ErrorKind::TimedOut => {
                    is_due.store(false, Ordering::Relaxed);
                    tracing::warn!(%error, "no control socket; signals still work");
                    None
                }
                Ok(Err(_)) | Err(Stalled::Late(_) | Stalled::Panicked) => {
                    if !is_due.swap(true, Ordering::Relaxed) {
                        tracing::warn!(
                            "the folder of the control socket does not answer; going on without a control socket, \
                             signals work"
                        );
                    }
                    None
                }
            }
        }
    }

    /// Whether the path is to be taken over again, because its disk did not answer.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due.load(Ordering::Relaxed)
    }

    /// Begins to answer.
    pub(crate) fn open(&mut self, taken: Taken) {
        match serve(taken.socket, taken.listener, self.control_target.clone()) {
            Ok(open) => self.open = Some(open),
            Err(error) => tracing::warn!(%error, "no control socket; signals still work"),
        }
    }

    /// Removes the file if it is still ours, answers the clients that have connected already, and lets followers get
    /// the end of their reload. Waits for the disk for [`FILES_MAX`] at most, and for the answers for [`FAREWELL`] at
    /// most.
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(crate) async fn close(self) {
        let Some(Open { socket, end, ended }) = self.open else { return };
        if let Err(stalled) = offload::run_within(FILES_MAX, move || socket.remove()).await {
            tracing::warn!("cannot remove the control socket, ignoring: {stalled}");
        }
        end.send_replace(true);
        let task = ended.abort_handle();
        if tokio::time::timeout(FAREWELL, ended).await.is_err() {
            task.abort();
        }
    }
}

fn serve(socket: ControlSocket, listener: StdListener, control_target: ControlTarget) -> io::Result<Open> {
    let listener = UnixListener::from_std(listener)?;
    let (end, ending) = watch::channel(false);
    tracing::debug!(path = %socket.path().display(), "control socket");
    let ended = tokio::spawn(accept_all(listener, control_target, ending));
    Ok(Open { socket, end, ended })
}

async fn accept_all(listener: UnixListener, control_target: ControlTarget, mut ending: watch::Receiver<bool>) {
    let clients = Arc::new(Clients::default());
    loop {
        let accepted = tokio::select! {
            // Clients that have connected already come first.
            biased;
            accepted = listener.accept() => accepted,
            _ = ending.wait_for(|ending| *ending) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                clients.room().await;
                take(stream, &clients, &control_target, &ending);
            }
            // No descriptor is left: the server needs the next free ones more.
            Err(_) => tokio::time::sleep(EXHAUSTED).await,
        }
    }
    // Empties the accept queue itself, because the runtime may not have noticed the last clients. A client that
    // connects after the close reaches the next generation: connect(2) looks the path up again (`unix_stream_connect`
    // in net/unix/af_unix.c, Linux 6.18).
    if let Ok(listener) = listener.into_std() {
        while let Ok((stream, _)) = listener.accept() {
            if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream)) {
                take(stream, &clients, &control_target, &ending);
            }
        }
    }
    clients.gone().await;
}

fn take(stream: UnixStream, clients: &Arc<Clients>, control_target: &ControlTarget, ending: &watch::Receiver<bool>) {
    if !is_allowed(&stream) {
        // Refused with an HTTP answer, without reading the request. What cannot be written at once is not written.
        let _ = stream.try_write(routes::FORBIDDEN);
        return;
    }
    let (control_target, mut ending) = (control_target.clone(), ending.clone());
    clients.enter(|client: Client| async move {
        // At the end, hyper would close a connection that it has not read from, and the request that is on its way
        // would be lost.
        if !matches!(tokio::time::timeout(PATIENCE, begins(&stream, &client)).await, Ok(Ok(()))) {
            return;
        }
        let service = routes::Service::new(control_target, client.clone(), ending.clone());
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEADER_MAX);
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
        // An error is the fault of the client: it went away, or sent no valid HTTP.
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            _ = ending.wait_for(|ending| *ending) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    });
}

/// Waits for the first byte, or for the end of the connection.
async fn begins(stream: &UnixStream, client: &Client) -> io::Result<()> {
    let peek = || {
        let peeked = recv(stream, &mut [0; 1], RecvFlags::PEEK);
        client.heard();
        peeked.map_err(io::Error::from)
    };
    stream.async_io(Interest::READABLE, peek).await.map(drop)
}

/// Allows the user of this process, and root (SO_PEERCRED, unix(7)). The mode of the file says the same, but can be
/// changed.
fn is_allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid();
    match socket_peercred(stream) {
        Ok(peer) if peer.uid == own || peer.uid.is_root() => true,
        Ok(peer) => {
            let (uid, pid) = (peer.uid.as_raw(), peer.pid.as_raw_pid());
            tracing::warn!(uid, pid, "refused another user at the control socket");
            false
        }
        Err(_) => false,
    }
}
