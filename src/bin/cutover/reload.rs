//! `cutover reload`: asks for a reload, and follows it to its end.

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use cutover::control::{Control, ControlError, ControlErrorKind, FollowUntil, Progress, ReloadProgress};
use cutover::{Generation, Outcome, Phase, Pid};
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

use crate::exit::{Failure, TRY_AGAIN, UNAVAILABLE, with_cause};
use crate::format;
use crate::process::{self, Process};
use crate::progress::Display;
use crate::reload_by_signal;
use crate::target::Target;

/// The interval between two updates of the line on a terminal.
const TICK: Duration = Duration::from_millis(100);
/// How long a process that has exceeded its timeout may send nothing before it counts as hanging.
const SILENCE: Duration = Duration::from_secs(10);
/// How long to look for the generation that took over from a lost one.
const LOOK: Duration = Duration::from_secs(10);
/// The interval between two such looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Replaces the message that the old generation serves on, because a stop ends a rollout as well.
const STOPPING: &str = "the old generation is stopping";
/// How long a process may take to end after it has nothing left to do.
const END: Duration = Duration::from_secs(10);

/// Start the next generation, and wait until it is live or given up.
///
/// On a terminal, one line shows the current step; otherwise each step is a line. Ctrl-C ends this command, not the
/// reload: the reload goes on, and `cutover status` shows it.
///
/// Exit status: 0 the next generation is live, 75 it is not and the old one serves on, or a rollout is under way
/// already; 69 no such instance, or its process is lost and no newer generation is live.
#[derive(Debug, Args)]
pub(crate) struct Reload {
    #[command(flatten)]
    target: Target,
    /// With --pid-file, where no control socket lists the process: send SIGHUP to the process, if the process began
    /// before the file was written, handles SIGHUP, and its executable, or the path by which it was started, is in this
    /// folder. Then wait until the file names another such process, for --timeout at most (without it, 35s). This way
    /// does not show that the next generation has failed, or that a rollout is under way: read the log of the server.
    #[arg(long, value_name = "DIR", requires = "pid_file", conflicts_with_all = ["name", "control", "drain", "json"])]
    root: Option<PathBuf>,
    /// If the reload has no outcome after this time, ask for a rollback, and wait for the outcome.
    #[arg(long, value_name = "TIME", value_parser = format::parse_time)]
    timeout: Option<Duration>,
    /// Wait until the process of the old generation is gone as well.
    #[arg(long)]
    drain: bool,
    /// Print the progress as JSON, one object per line, and nothing else on stdout.
    #[arg(long)]
    json: bool,
}

impl Reload {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let control = match (self.target.control().await, &self.root, self.target.pid_file()) {
            (Ok(control), _, _) => control,
            (Err(unasked), Some(root), Some(file)) => {
                return reload_by_signal::reload(file, root, self.timeout, &unasked).await;
            }
            (Err(error), _, _) => return Err(error.into()),
        };
        let until = if self.drain { FollowUntil::Gone } else { FollowUntil::Outcome };
        let following = control.reload(until).await?;
        let old = if self.drain { Some(Old::of(&control, following.pid()).await?) } else { None };
        let mut watch = Watch { control, following, display: Display::new(self.json), brought: None };
        let decided = watch.decide(self.timeout).await;
        match decided {
            Ok(outcome) => watch.tell(outcome).await?,
            Err(Undecided::Lost(error)) if error.kind() == ControlErrorKind::Lost => {
                watch.look_for_another(error).await?
            }
            Err(Undecided::Lost(error)) => {
                watch.display.clear();
                return Err(error.into());
            }
            Err(Undecided::Silent) => {
                watch.display.clear();
                let message = format!("process {} does not answer any more", watch.following.pid());
                return Err(Failure::new(UNAVAILABLE, message));
            }
        }
        match old {
            Some(old) => watch.drain(old).await,
            None => Ok(()),
        }
    }
}

/// The process whose end is the end of the old generation.
enum Old {
    /// The process that runs the reload; `None` if it is gone already, or cannot be seen from here.
    Itself(Option<Process>),
    /// A process of the supervisor that runs the reload. The supervisor stays, and reports when the old generation is
    /// gone (`cutover run`).
    Supervised,
}

impl Old {
    async fn of(control: &Control, asked: Pid) -> Result<Old, Failure> {
        let process = Process::hold(asked)?;
        let status = control.status().await;
        // A generation that is not listed any more is gone, so there is nothing to wait for in this case either.
        let is_none = status.is_ok_and(|status| status.generations.iter().all(|generation| generation.pid != asked));
        Ok(if is_none { Old::Supervised } else { Old::Itself(process) })
    }
}

/// A reload that is being followed.
struct Watch {
    control: Control,
    following: ReloadProgress,
    display: Display,
    /// The generation that the reload brings.
    brought: Option<Generation>,
}

/// Why the outcome is not known.
enum Undecided {
    Lost(ControlError),
    Silent,
}

impl From<ControlError> for Undecided {
    fn from(error: ControlError) -> Undecided {
        Undecided::Lost(error)
    }
}

impl Watch {
    /// Waits for the outcome, and asks for a rollback after the timeout.
    async fn decide(&mut self, timeout: Option<Duration>) -> Result<Outcome, Undecided> {
        let limit = timeout.map(|time| Instant::now() + time);
        let control = self.control.clone();
        let mut rollback = pin!(async {
            match limit {
                Some(limit) => sleep_until(limit).await,
                None => std::future::pending().await,
            }
            control.rollback().await
        });
        let mut is_asked = false;
        let mut silence = pin!(sleep_until(limit.unwrap_or_else(Instant::now) + SILENCE));
        let mut ticks = interval(TICK);
        loop {
            tokio::select! {
                progress = self.following.next() => match progress? {
                    Some(Progress::Outcome(outcome)) => {
                        self.show(&Progress::Outcome(outcome.clone()));
                        return Ok(outcome);
                    }
                    Some(progress) => {
                        self.show(&progress);
                        if let Some(limit) = limit {
                            silence.as_mut().reset(limit.max(Instant::now()) + SILENCE);
                        }
                    }
                    // The stream ends only after the outcome.
                    None => return Err(Undecided::Silent),
                },
                answer = &mut rollback, if !is_asked => {
                    is_asked = true;
                    self.note_rollback(timeout.unwrap_or_default(), answer);
                }
                () = &mut silence, if limit.is_some() => return Err(Undecided::Silent),
                _ = ticks.tick(), if self.display.is_moving() => self.display.tick(),
            }
        }
    }

    fn show(&mut self, progress: &Progress) {
        if let Progress::Phase { generation, .. } = progress {
            self.brought = Some(*generation);
        }
        self.display.show(progress, self.following.line());
    }

    fn note_rollback(&self, time: Duration, answer: Result<(), ControlError>) {
        let what = match answer {
            Ok(()) => "asked for a rollback".to_owned(),
            Err(error) => format!("cannot roll back: {}", with_cause(&error)),
        };
        self.display.note(&format!("no outcome after {}: {what}", humantime::format_duration(time)));
    }

    /// Reports the outcome to people, and returns it for the exit code.
    async fn tell(&mut self, outcome: Outcome) -> Result<(), Failure> {
        match outcome {
            Outcome::Done { generation, pid, took, .. } => {
                let took = format::time(took);
                self.display.result(&format!("generation {generation} is live (pid {pid}) after {took}"));
                Ok(())
            }
            Outcome::RolledBack { generation, reason, .. } => {
                self.display.clear();
                let old = self.old_generation(generation).await;
                let reason = format::one_line(&reason);
                let message = format!("reload failed: generation {generation} {reason}; {old}");
                Err(Failure::new(TRY_AGAIN, message))
            }
            _ => {
                self.display.clear();
                Err(Failure::new(TRY_AGAIN, "the reload ended in a way that this version does not know"))
            }
        }
    }

    /// What the generation that ran the reload does now: a generation that is being stopped does not serve on.
    async fn old_generation(&self, failed: Generation) -> String {
        let status = self.control.status().await;
        let is_stopped = status.as_ref().is_err_and(|error| error.kind() == ControlErrorKind::NoInstance);
        let generations: Vec<_> = status.into_iter().flat_map(|status| status.generations).collect();
        let own = generations.iter().find(|one| one.pid == self.following.pid());
        // A supervisor is not a generation itself.
        let live = || generations.iter().find(|one| one.phase == Phase::Serving && one.generation < failed);
        match own.or_else(live) {
            Some(own) if matches!(own.phase, Phase::Retiring | Phase::Draining | Phase::Gone) => STOPPING.to_owned(),
            None if is_stopped => STOPPING.to_owned(),
            Some(own) => format!("generation {} serves on", own.generation),
            None => "the old generation serves on".to_owned(),
        }
    }

    /// Looks for the live generation after the process that ran the reload was lost. A next generation that was ready
    /// continues without that process; a next generation that was not ready takes over when it is.
    async fn look_for_another(&mut self, lost: ControlError) -> Result<(), Failure> {
        self.display.clear();
        self.display.note(&format!("{}; looking which generation is live", with_cause(&lost)));
        let (old, brought, control) = (self.following.pid(), self.brought, self.control.clone());
        let look = async {
            loop {
                let generations = control.status().await.map(|status| status.generations).unwrap_or_default();
                let is_newer = |generation| brought.is_none_or(|brought| generation >= brought);
                let mut live = generations.into_iter().filter(|g| g.phase == Phase::Serving && g.pid != old);
                if let Some(live) = live.find(|g| is_newer(g.generation)) {
                    return live;
                }
                sleep(LOOK_AGAIN).await;
            }
        };
        match timeout(LOOK, look).await {
            Ok(live) => {
                self.display.announce(&format!("generation {} is live (pid {})", live.generation, live.pid));
                Ok(())
            }
            Err(_) => Err(Failure::new(UNAVAILABLE, "no newer generation is live")),
        }
    }

    /// Follows the old generation to its end.
    async fn drain(&mut self, old: Old) -> Result<(), Failure> {
        self.display.wait_for_the_old_one();
        let mut ticks = interval(TICK);
        let ended = loop {
            tokio::select! {
                progress = self.following.next() => match progress {
                    Ok(Some(progress)) => self.show(&progress),
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                },
                _ = ticks.tick(), if self.display.is_moving() => self.display.tick(),
            }
        };
        let old = match (old, ended) {
            // For whatever reason the stream has ended, the process shows whether the generation is gone.
            (Old::Itself(process), _) => process,
            (Old::Supervised, Ok(())) => {
                self.display.clear();
                self.display.result("the old generation is gone");
                return Ok(());
            }
            (Old::Supervised, Err(lost)) => {
                self.display.clear();
                return Err(lost.into());
            }
        };
        let pid = self.following.pid();
        let left = process::wait(old.into_iter().collect(), END);
        self.display.clear();
        if !left.is_empty() {
            let message =
                format!("the old process (pid {pid}) has finished its connections, but has not ended in {END:?}");
            return Err(Failure::new(TRY_AGAIN, message));
        }
        self.display.result(&format!("the old process (pid {pid}) is gone"));
        Ok(())
    }
}
