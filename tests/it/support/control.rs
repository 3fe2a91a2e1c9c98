//! The control socket of an instance, by the public client `Control`. Every wait has a deadline.

use std::future::Future;
use std::time::Duration;

use cutover::control::{Control, FollowUntil, Progress, ReloadProgress, Status};
use cutover::{Outcome, Phase};
use tokio::runtime::Runtime;

use super::process::Instance;

const SOON: Duration = Duration::from_secs(20);

/// The control client of one instance.
pub struct Panel {
    control: Control,
    runtime: Runtime,
}

impl Panel {
    /// Returns a client for the control socket, which has the name of the first address.
    #[track_caller]
    pub fn of(server: &Instance) -> Panel {
        let path = server.directory().join("run").join(format!("{}.sock", server.addr()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Panel { control: Control::at(path), runtime }
    }

    #[track_caller]
    fn wait<T, E: std::fmt::Debug>(&self, what: &str, answer: impl Future<Output = Result<T, E>>) -> T {
        match self.runtime.block_on(async { tokio::time::timeout(SOON, answer).await }) {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => panic!("{what}: {error:?}"),
            Err(_) => panic!("{what}: no answer in {SOON:?}"),
        }
    }

    #[track_caller]
    pub fn status(&self) -> Status {
        self.wait("status", self.control.status())
    }

    #[track_caller]
    pub fn promote(&self) {
        self.wait("promote", self.control.promote());
    }

    #[track_caller]
    pub fn rollback(&self) {
        self.wait("rollback", self.control.rollback());
    }

    /// Requests a reload, and follows its progress.
    #[track_caller]
    pub fn reload(&self) -> Watched<'_> {
        let following = self.wait("reload", self.control.reload(FollowUntil::Outcome));
        Watched { panel: self, following, told: Vec::new() }
    }

    /// The pid of a living generation.
    #[track_caller]
    pub fn pid_of(&self, generation: u32) -> u32 {
        let status = self.status();
        let found = status.generations.iter().find(|g| g.generation.number() == generation);
        found.unwrap_or_else(|| panic!("no generation {generation} in {status:?}")).pid.number()
    }

    /// The number of connections of a generation.
    #[track_caller]
    pub fn connections_of(&self, generation: u32) -> u64 {
        let status = self.status();
        let found = status.generations.iter().find(|g| g.generation.number() == generation);
        found
            .and_then(|g| g.connections)
            .unwrap_or_else(|| panic!("generation {generation} is not counted: {status:?}"))
    }
}

/// A reload whose progress is followed.
pub struct Watched<'a> {
    panel: &'a Panel,
    following: ReloadProgress,
    told: Vec<Progress>,
}

impl Watched<'_> {
    #[track_caller]
    fn until(&mut self, what: &str, is: impl Fn(&Progress) -> bool) -> Progress {
        loop {
            let next = self.panel.wait(what, self.following.next());
            let Some(progress) = next else { panic!("no {what} in {:#?}", self.told) };
            self.told.push(progress.clone());
            if is(&progress) {
                return progress;
            }
            assert!(!matches!(progress, Progress::Outcome(_)), "no {what} in {:#?}", self.told);
        }
    }

    #[track_caller]
    pub fn reaches(&mut self, wanted: Phase) {
        self.until(
            &format!("phase {wanted}"),
            |progress| matches!(progress, Progress::Phase { phase, .. } if *phase == wanted),
        );
    }

    /// Waits until a canary step with this share has begun, and the kernel applies the share.
    #[track_caller]
    pub fn reaches_canary(&mut self, percent: f64) {
        let wanted = cutover::Share::try_from(percent).expect("a share");
        self.until(
            &format!("canary of {percent} %"),
            |progress| matches!(progress, Progress::Canary { share, .. } if *share == wanted),
        );
    }

    /// Waits until the soak has begun: all new connections go to green.
    #[track_caller]
    pub fn reaches_soak(&mut self) {
        self.until("soak", |progress| matches!(progress, Progress::Soak { .. }));
    }

    #[track_caller]
    fn outcome(&mut self) -> Outcome {
        match self.until("outcome", |progress| matches!(progress, Progress::Outcome(_))) {
            Progress::Outcome(outcome) => outcome,
            other => unreachable!("{other:?}"),
        }
    }

    /// Waits for the outcome, which must be `Done`, and returns the live generation.
    #[track_caller]
    pub fn done(mut self) -> u32 {
        match self.outcome() {
            Outcome::Done { generation, .. } => generation.number(),
            other => panic!("it is not done: {other:?}"),
        }
    }

    /// Waits for the outcome, which must be `RolledBack`, and returns the reason.
    #[track_caller]
    pub fn rolled_back(mut self) -> String {
        match self.outcome() {
            Outcome::RolledBack { reason, .. } => reason,
            other => panic!("it is not rolled back: {other:?}"),
        }
    }

    /// Waits for the outcome, which must be `RolledBack` with these words in the reason.
    #[track_caller]
    pub fn rolled_back_because(self, words: &[&str]) {
        let reason = self.rolled_back();
        for word in words {
            assert!(reason.contains(word), "`{word}` is not in: {reason}");
        }
    }
}
