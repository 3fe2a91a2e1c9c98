//! `cutover stop`: stops an instance gracefully, and waits until it is gone.

use std::time::{Duration, Instant};

use clap::Args;
use cutover::control::{Control, ControlErrorKind, Status};

use crate::exit::{Failure, TRY_AGAIN, say};
use crate::format;
use crate::process::{self, Process};
use crate::target::Target;

/// A stop that completes within this time is reported without a line about waiting.
const AT_ONCE: Duration = Duration::from_millis(300);
/// The interval between two looks at the processes that are left.
const LOOK: Duration = Duration::from_secs(1);

/// Stop an instance gracefully, as SIGTERM does, and wait until all of its processes are gone.
///
/// Exit status 75 if one of them is still there after --timeout.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    target: Target,
    /// Wait no longer than this. Default: until all are gone.
    #[arg(long, value_name = "TIME", value_parser = format::parse_time)]
    timeout: Option<Duration>,
}

impl Stop {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let control = self.target.control().await?;
        let status = control.status().await?;
        // The processes are held before they are asked to stop.
        let pids = status.generations.iter().map(|generation| generation.pid).chain(status.supervisor);
        let held = pids.map(Process::hold);
        let mut living: Vec<Process> = held.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        if let Err(error) = control.stop().await {
            let may_have_heard = matches!(error.kind(), ControlErrorKind::NoInstance | ControlErrorKind::Lost);
            living = process::wait(living, AT_ONCE);
            if !may_have_heard || !living.is_empty() {
                return Err(error.into());
            }
        }
        self.wait(&control, &status, living).await?;
        say(format_args!("instance {} is stopped", format::one_line(&status.name)));
        Ok(())
    }

    async fn wait(&self, control: &Control, status: &Status, mut living: Vec<Process>) -> Result<(), Failure> {
        let by = self.timeout.map(|time| Instant::now() + time);
        let mut told = String::new();
        let mut pause = AT_ONCE;
        loop {
            let time_left = by.map_or(pause, |by| pause.min(by.saturating_duration_since(Instant::now())));
            living = process::wait(living, time_left);
            if living.is_empty() {
                return Ok(());
            }
            if by.is_some_and(|by| by <= Instant::now()) {
                let who = names(&living, status, None);
                let time = humantime::format_duration(self.timeout.unwrap_or_default());
                return Err(Failure::new(TRY_AGAIN, format!("not gone in {time}: {who}")));
            }
            let time_left = by.map_or(LOOK, |by| LOOK.min(by.saturating_duration_since(Instant::now())));
            // A process that is ending need not answer any more.
            let now = tokio::time::timeout(time_left, control.status()).await.ok().and_then(Result::ok);
            let who = names(&living, status, now.as_ref());
            if who != told {
                say(format_args!("waiting for {who}"));
                told = who;
            }
            pause = LOOK;
        }
    }
}

/// Names the processes that live, and the number of their open connections if it is known.
fn names(living: &[Process], status: &Status, now: Option<&Status>) -> String {
    let names = living.iter().map(|process| {
        let of = |status: &Status| status.generations.iter().find(|g| g.pid == process.pid).cloned();
        let number = of(status).map(|g| format!("generation {} ", g.generation));
        let supervises = status.supervisor == Some(process.pid);
        let number = number.unwrap_or_else(|| if supervises { "the supervisor ".into() } else { String::new() });
        let open = now.and_then(of).and_then(|g| g.connections);
        let open = open.map(|count| format!(" with {}", format::connections(count))).unwrap_or_default();
        format!("{number}(pid {}){open}", process.pid)
    });
    names.collect::<Vec<_>>().join(", ")
}
