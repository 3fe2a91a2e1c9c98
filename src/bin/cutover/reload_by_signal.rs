//! `cutover reload` of a server without a control socket: by SIGHUP, to a process that is proven to be the server.

use std::path::Path;
use std::time::Duration;

use cutover::control::{ControlError, ServerProcess};
use tokio::time::{Instant, sleep};

use crate::exit::{Failure, TRY_AGAIN, UNAVAILABLE, say, with_cause};

/// How long the server may take if no time is given: longer than the server's own default for becoming ready, which is
/// 30 s.
const PATIENCE: Duration = Duration::from_secs(35);
/// The interval between two looks at the PID file. A rename over the file is no event of the process that is held.
const LOOK: Duration = Duration::from_millis(50);

/// Signals the process that the PID file names, and waits until the file names another process.
///
/// `unasked` is the reason why no control socket could be asked.
pub(crate) async fn reload(
    file: &Path,
    root: &Path,
    time: Option<Duration>,
    unasked: &ControlError,
) -> Result<(), Failure> {
    let unproven = |error| Failure::new(UNAVAILABLE, format!("{unasked}; {}", with_cause(&error)));
    let old = ServerProcess::of_pid_file(file, root).map_err(unproven)?;
    old.hup()?;
    let time = time.unwrap_or(PATIENCE);
    let by = Instant::now() + time;
    loop {
        // The order matters: the old process writes the file before it ends, so a process that has ended has written
        // the file.
        let is_alive = old.is_alive();
        let another = match ServerProcess::of_pid_file(file, root) {
            Ok(named) if named.pid() != old.pid() => Ok(named.pid()),
            Ok(_) => Err(String::new()),
            Err(error) => Err(format!(": {}", with_cause(&error))),
        };
        match another {
            Ok(pid) => {
                say(format_args!("process {pid} is live (before: process {})", old.pid()));
                return Ok(());
            }
            Err(why) if !is_alive => {
                let message = format!("process {} ended before another one was live{why}", old.pid());
                return Err(Failure::new(UNAVAILABLE, message));
            }
            Err(why) if Instant::now() >= by => {
                let (pid, time) = (old.pid(), humantime::format_duration(time));
                let message = format!("no other process was live after {time}, and process {pid} serves on{why}");
                return Err(Failure::new(TRY_AGAIN, message));
            }
            Err(_) => sleep(LOOK).await,
        }
    }
}
