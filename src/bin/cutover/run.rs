//! `cutover run`: any program, generation after generation.

use std::error::Error as _;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use cutover::{Error, ErrorKind, ReadyWhen, Supervisor, defaults};

use crate::exit::{CANNOT_EXECUTE, NOT_FOUND, UNAVAILABLE, USAGE};
use crate::format::seconds;
use crate::rollout::{Addresses, Listen, Rollout, listen};

/// Run a program that listens by SO_REUSEPORT, and replace it on SIGHUP without losing a request.
///
/// Can be the first process of a container. The exit code is that of the program, or 128+n if signal n has killed the
/// program.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The address on which the program listens; may be given more than once. Default: the addresses on which the
    /// program is found to listen.
    /// On a Unix socket, unix:/PATH or unix:@NAME, `run` itself listens, and the program gets the listener as descriptor 3,
    /// 4, …, with LISTEN_FDS and LISTEN_PID, as from systemd.
    #[arg(long, value_name = "ADDR", value_parser = listen)]
    listen: Vec<Listen>,
    /// How to detect that a generation is ready. `listening`: it listens on each address; `notify`: it sends READY=1
    /// (sd_notify); `http:/PATH`: it listens, and answers a request for this path with 2xx or 3xx; `delay:2s`: it has
    /// run for this time.
    #[arg(long, value_name = "HOW", value_parser = ready, default_value = "listening")]
    ready: ReadyWhen,
    /// The signal by which an old generation is told to stop.
    #[arg(long, value_name = "SIGNAL", default_value = defaults::STOP_SIGNAL)]
    stop_signal: String,
    /// How long a generation that was told to stop may take to end, before it is killed.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = seconds(defaults::DRAIN_TIMEOUT))]
    stop_timeout: Duration,
    /// A command to run before each reload, such as "nginx -t"; if its exit code is not 0, the reload is refused.
    #[arg(long, value_name = "CMD", value_parser = words)]
    preflight: Option<Words>,
    #[command(flatten)]
    rollout: Rollout,
    /// The program, and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Debug, Clone)]
struct Words(Vec<String>);

fn words(text: &str) -> Result<Words, String> {
    match shell_words::split(text) {
        Ok(words) if words.is_empty() => Err("the command is empty".into()),
        Ok(words) => Ok(Words(words)),
        Err(error) => Err(error.to_string()),
    }
}

fn ready(text: &str) -> Result<ReadyWhen, String> {
    match text.split_once(':') {
        None if text == "notify" => Ok(ReadyWhen::Notify),
        None if text == "listening" => Ok(ReadyWhen::Listening),
        Some(("http", path)) if path.starts_with('/') => Ok(ReadyWhen::Http(path.to_owned())),
        Some(("https", _)) => Ok(ReadyWhen::Http(text.to_owned())),
        Some(("delay", time)) => {
            let time = humantime::parse_duration(time).map_err(|error| format!("{time} is no duration: {error}"))?;
            Ok(ReadyWhen::Delay(time))
        }
        _ => Err("the possible values are listening, notify, http:/PATH, https:/PATH, delay:TIME".into()),
    }
}

impl Run {
    pub(crate) fn run(self) -> ExitCode {
        let supervisor = self.supervisor();
        // One thread is enough, because a supervisor has little to do, and needs few resources.
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "cannot watch for events");
                return ExitCode::from(UNAVAILABLE);
            }
        };
        let done = runtime.block_on(supervisor.run());
        runtime.shutdown_background();
        match done {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
                tracing::error!("cannot begin: {error}{cause}");
                ExitCode::from(code_of(&error))
            }
        }
    }

    fn supervisor(self) -> Supervisor {
        let mut command = self.command.into_iter();
        let mut supervisor = Supervisor::new(command.next().unwrap_or_default(), command)
            .ready(self.ready)
            .stop_signal(self.stop_signal)
            .stop_timeout(self.stop_timeout);
        for address in &self.listen {
            supervisor = match address {
                Listen::Inet(Addresses(addresses)) => supervisor.listen(&addresses[..]),
                Listen::Unix(address) => supervisor.listen(address),
            };
        }
        if let Some(Words(words)) = self.preflight {
            supervisor = supervisor.preflight(words);
        }
        self.rollout.of_supervisor(supervisor)
    }
}

/// The exit codes that shells and container engines use.
fn code_of(error: &Error) -> u8 {
    let kind = error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
    match (error.kind(), kind) {
        (ErrorKind::Program, Some(io::ErrorKind::NotFound)) => NOT_FOUND,
        (ErrorKind::Program, _) => CANNOT_EXECUTE,
        (ErrorKind::Config, _) => USAGE,
        _ => UNAVAILABLE,
    }
}
