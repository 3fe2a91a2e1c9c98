//! The control client: finds an instance by its control socket, and sends requests to it.

use std::path::{Path, PathBuf};

use hyper::Method;

use crate::model::identity::Pid;
use crate::model::status::Status;
use crate::sys::control_folder::RuntimeDirs;
use crate::sys::credentials;

mod discovery;
mod error;
mod pid_file;
mod proof;
mod reload_progress;
mod request;
mod server_process;

#[cfg(test)]
mod tests;

pub use error::{ControlError, ControlErrorKind};
pub use reload_progress::{FollowUntil, ReloadProgress};
pub use server_process::ServerProcess;

use request::{Patience, Peer, ask, ask_whole, of_protocol};

/// The control socket of one instance, for any generation of the instance that is live. Each call opens a new
/// connection.
///
/// ```no_run
/// use cutover::control::{Control, ControlError, FollowUntil, Progress};
/// use cutover::Outcome;
///
/// # async fn example() -> Result<(), ControlError> {
/// let mut following = Control::find(Some("web"))?.reload(FollowUntil::Outcome).await?;
/// while let Some(progress) = following.next().await? {
///     match progress {
///         Progress::Outcome(Outcome::Done { generation, .. }) => println!("generation {generation} is live"),
///         Progress::Outcome(outcome) => println!("the old generation serves on: {outcome:?}"),
///         other => println!("{other:?}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Every call that sends a request can return [`NoInstance`](ControlErrorKind::NoInstance) if no process listens on the
/// socket (any more), [`Denied`](ControlErrorKind::Denied) if the socket belongs to another user,
/// [`Lost`](ControlErrorKind::Lost) if no answer comes in 10 s, or if the answer breaks off,
/// [`Protocol`](ControlErrorKind::Protocol) if the answer is not understood, and [`System`](ControlErrorKind::System)
/// if no connection can be made. While a generation is being replaced, the request is repeated for 5 s at most.
///
/// # Cancel safety
/// If a call is dropped before it completes, its request may or may not have reached the instance.
///
/// # Panics
/// Every call that sends a request needs a tokio runtime with I/O and time.
#[derive(Debug, Clone)]
pub struct Control {
    path: PathBuf,
    patience: Patience,
}

impl Control {
    /// The living instance with this name; without a name, the only living instance.
    ///
    /// Looks in `$RUNTIME_DIRECTORY`, `/run/cutover` and `$XDG_RUNTIME_DIR/cutover`, and in the folders inside of
    /// these. A socket file whose process is gone is ignored.
    ///
    /// # Errors
    /// [`NoInstance`](ControlErrorKind::NoInstance), [`Several`](ControlErrorKind::Several) (also if several instances
    /// have the name, in different folders), [`Denied`](ControlErrorKind::Denied) if there are only instances of other
    /// users, [`Name`](ControlErrorKind::Name).
    pub fn find(name: Option<&str>) -> Result<Control, ControlError> {
        let runtime_dirs = RuntimeDirs::new(|variable| std::env::var_os(variable));
        discovery::find(name, &runtime_dirs.candidates()).map(Control::at)
    }

    /// The instance whose control socket has this path. Does no I/O: the first request shows whether the instance
    /// lives.
    pub fn at(path: impl Into<PathBuf>) -> Control {
        Control { path: path.into(), patience: Patience::default() }
    }

    /// The living instance to which the process of this PID file belongs.
    ///
    /// The file alone is no proof: the process may be gone, and its number may belong to another process. So all
    /// instances that [`find`](Control::find) can see are asked, and the result is the instance that lists this
    /// process, as a generation or as its supervisor. The process that answers must be listed as well, and must have made
    /// the socket as the user of the named process, or as root. So a user who may put a socket into the same folder cannot
    /// pass for the instance of another user.
    ///
    /// # Errors
    /// [`NoInstance`](ControlErrorKind::NoInstance) if no instance lists the process, or if the file names no process.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time, as [all calls](Control#panics).
    pub async fn of_pid_file(path: impl AsRef<Path>) -> Result<Control, ControlError> {
        let path = path.as_ref();
        let pid = pid_file::read(path)?.pid;
        let runtime_dirs = RuntimeDirs::new(|variable| std::env::var_os(variable));
        let mut asked = tokio::task::JoinSet::new();
        for socket in discovery::all(&runtime_dirs.candidates()) {
            let control = Control::at(socket);
            asked.spawn(async move { control.has(pid).await.then_some(control) });
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok(Some(control)) = answer {
                return Ok(control);
            }
        }
        let message = format!("no control socket in the usual folders lists process {pid} of {}", path.display());
        Err(ControlError::new(ControlErrorKind::NoInstance, message))
    }

    /// Whether the process belongs to this instance; false if the instance cannot be asked.
    async fn has(&self, pid: Pid) -> bool {
        let Ok((status, peer)) = self.status_of_peer().await else { return false };
        let listed: Vec<Pid> = status.generations.iter().map(|one| one.pid).chain(status.supervisor).collect();
        let fits = peer.uid == 0 || credentials::of(pid).is_ok_and(|named| named.uid == peer.uid);
        listed.contains(&pid) && listed.contains(&peer.pid) && fits
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The status of the instance: its generations, and the rollout that is under way.
    ///
    /// # Errors
    /// Those of [all calls](Control#errors).
    pub async fn status(&self) -> Result<Status, ControlError> {
        self.status_of_peer().await.map(|(status, _)| status)
    }

    /// The status, and the process that answers.
    async fn status_of_peer(&self) -> Result<(Status, Peer), ControlError> {
        let (text, peer) = ask_whole(&self.path, self.patience, Method::GET, "/v1/status").await?;
        let status = serde_json::from_slice(&text).map_err(|error| of_protocol(&self.path, error))?;
        Ok((status, peer))
    }

    /// The metrics, in the text format of Prometheus.
    ///
    /// # Errors
    /// Those of [all calls](Control#errors).
    pub async fn metrics(&self) -> Result<String, ControlError> {
        let (text, _) = ask_whole(&self.path, self.patience, Method::GET, "/metrics").await?;
        String::from_utf8(text.into()).map_err(|error| of_protocol(&self.path, error))
    }

    /// Starts the next generation, as SIGHUP does, and follows the rollout.
    ///
    /// # Errors
    /// [`Refused`](ControlErrorKind::Refused) while a rollout is under way, and those of [all calls](Control#errors).
    pub async fn reload(&self, until: FollowUntil) -> Result<ReloadProgress, ControlError> {
        let target = match until {
            FollowUntil::Outcome => "/v1/reload",
            FollowUntil::Gone => "/v1/reload?drain=true",
        };
        let answer = ask(&self.path, self.patience, Method::POST, target).await?;
        Ok(ReloadProgress::new(&self.path, answer))
    }

    /// Promotes the next generation: ends the canary or the soak of the rollout that is under way.
    ///
    /// # Errors
    /// [`Refused`](ControlErrorKind::Refused) at any other time, and those of [all calls](Control#errors).
    pub async fn promote(&self) -> Result<(), ControlError> {
        self.tell("/v1/promote").await
    }

    /// Rolls back: gives up the rollout that is under way, and steers all new connections to the old generation again.
    ///
    /// # Errors
    /// [`Refused`](ControlErrorKind::Refused) if no rollout is under way, or if it cannot be given up, and those of
    /// [all calls](Control#errors).
    pub async fn rollback(&self) -> Result<(), ControlError> {
        self.tell("/v1/rollback").await
    }

    /// Stops the instance gracefully, as SIGTERM does.
    ///
    /// # Errors
    /// Those of [all calls](Control#errors).
    pub async fn stop(&self) -> Result<(), ControlError> {
        self.tell("/v1/stop").await
    }

    async fn tell(&self, target: &str) -> Result<(), ControlError> {
        ask_whole(&self.path, self.patience, Method::POST, target).await.map(drop)
    }
}
