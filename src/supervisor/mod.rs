//! The supervisor's face: any program, generation after generation.

mod child;
mod first;
mod host;
mod instance;
mod metrics;
mod notifications;
mod options;
mod preflight;
mod readiness;
mod retire;
pub(crate) mod settings;
mod signals;
mod start;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::Config;
use crate::defaults;
use crate::error::{Error, ErrorKind};
use crate::sys::launch::Launch;

use self::settings::ReadyWhen;

/// Runs a program in any language, and replaces it on SIGHUP without losing a request.
///
/// The program listens by SO_REUSEPORT, so that the next generation of it can listen beside it. Both are processes of
/// their own; this one listens nowhere (but for `metrics`), and is fit to be the first process of a container: it reaps
/// every orphan, and passes signals and the exit code on.
///
/// ```no_run
/// # async fn example() -> Result<(), cutover::Error> {
/// let code = cutover::Supervisor::new("gunicorn", ["--reuse-port", "-b", "0.0.0.0:8000", "app"])
///     .listen("0.0.0.0:8000")
///     .run()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a supervisor does nothing before run"]
pub struct Supervisor {
    words: Vec<OsString>,
    listen: Vec<std::io::Result<Vec<SocketAddr>>>,
    config: Config,
    ready: ReadyWhen,
    stop_signal: String,
    preflight: Option<Vec<OsString>>,
    launch: Arc<Launch>,
}

impl Supervisor {
    /// Runs this program, which is looked up in PATH if it has no slash, with these arguments.
    pub fn new<A: Into<OsString>>(program: impl Into<OsString>, arguments: impl IntoIterator<Item = A>) -> Supervisor {
        Supervisor {
            words: std::iter::once(program.into()).chain(arguments.into_iter().map(Into::into)).collect(),
            listen: Vec::new(),
            config: Config::default(),
            ready: ReadyWhen::Listening,
            stop_signal: defaults::STOP_SIGNAL.to_owned(),
            preflight: None,
            launch: Arc::new(Launch::capture()),
        }
    }

    /// Runs until the live generation has ended: by itself, or because this process was told to stop (SIGTERM, SIGINT,
    /// SIGQUIT). Returns its exit code, 128 and the number of the signal if one has killed it.
    ///
    /// SIGHUP starts the next generation. SIGUSR1, SIGUSR2 and SIGWINCH go on to the program. It must be called once in a
    /// process, for it waits for all children.
    ///
    /// # Errors
    /// If it cannot begin: see [`ErrorKind`].
    ///
    /// # Cancel safety
    /// When the future is dropped the program runs on, and nobody waits for it.
    pub async fn run(self) -> Result<u8, Error> {
        self.supervise().await
    }

    /// Where the program is said to listen; `None` if it was not said.
    fn addresses(&self) -> Result<Option<Vec<SocketAddr>>, Error> {
        let mut found: Vec<SocketAddr> = Vec::new();
        for asked in &self.listen {
            let wrong = |error: &std::io::Error| {
                let error = std::io::Error::new(error.kind(), error.to_string());
                Error::io(ErrorKind::Address, "an address cannot be understood", error)
            };
            found.extend(asked.as_ref().map_err(wrong)?);
        }
        match found.iter().find(|address| address.port() == 0) {
            Some(address) => {
                let what =
                    format!("{address} has port 0: what the system chooses cannot be shared with the next generation");
                Err(Error::new(ErrorKind::Config, what))
            }
            None => Ok(Some(found).filter(|found| !found.is_empty())),
        }
    }
}
