//! The public type of the supervisor: runs any program, generation after generation.

mod child;
mod host;
mod instance;
mod launch;
mod metrics;
mod next_generation;
mod notifications;
mod options;
mod preflight;
mod readiness;
mod retire;
pub(crate) mod settings;
mod signals;
mod start;
mod unix_listeners;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::Config;
use crate::defaults;
use crate::error::{Error, ErrorKind};
use crate::model::unix_address::UnixAddress;
use crate::runtime::bind::ListenAddress;
use crate::sys::launch::Launch;

use self::settings::ReadyWhen;

/// Runs a program in any language, and replaces it on SIGHUP without losing a request.
///
/// The program listens with SO_REUSEPORT, so that its next generation can listen beside it. Each generation is a
/// process of its own. The supervisor itself does not listen (except for `metrics`), and is fit to be the first process
/// of a container: it reaps every orphan, and passes on signals and the exit code.
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
    listen: Vec<std::io::Result<Vec<ListenAddress>>>,
    config: Config,
    ready: ReadyWhen,
    stop_signal: String,
    preflight: Option<Vec<OsString>>,
    launch: Arc<Launch>,
}

impl Supervisor {
    /// Creates a supervisor that runs this program with these arguments. A program name without a slash is looked up in
    /// PATH.
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
    /// SIGQUIT). Returns the exit code of that generation, or 128 plus the number of the signal that has killed it.
    ///
    /// SIGHUP starts the next generation. SIGUSR1, SIGUSR2 and SIGWINCH are passed on to the program. Call this method
    /// only once in a process, because it waits for all children of the process.
    ///
    /// # Errors
    /// If the supervisor cannot start: see [`ErrorKind`].
    ///
    /// # Cancel safety
    /// Not cancel safe: if the future is dropped, the program continues to run, and its end is not waited for.
    pub async fn run(self) -> Result<u8, Error> {
        self.supervise().await
    }

    /// The addresses given with [`listen`](Supervisor::listen), `None` if none of them has a port; and the Unix sockets.
    fn addresses(&self) -> Result<(Option<Vec<SocketAddr>>, Vec<UnixAddress>), Error> {
        let (mut found, mut unix): (Vec<SocketAddr>, Vec<UnixAddress>) = (Vec::new(), Vec::new());
        for asked in &self.listen {
            let wrong = |error: &std::io::Error| {
                let error = std::io::Error::new(error.kind(), error.to_string());
                Error::io(ErrorKind::Address, "an address cannot be understood", error)
            };
            for address in asked.as_ref().map_err(wrong)? {
                match address {
                    ListenAddress::Inet(address) => found.push(*address),
                    ListenAddress::Unix(address) => unix.push(address.clone()),
                }
            }
        }
        match found.iter().find(|address| address.port() == 0) {
            Some(address) => {
                let what = format!(
                    "{address} has port 0: a port that the system chooses cannot be shared with the next generation"
                );
                Err(Error::new(ErrorKind::Config, what))
            }
            None => Ok((Some(found).filter(|found| !found.is_empty()), unix)),
        }
    }
}
