//! The loop: an event comes, the model answers with effects, the host performs them, what they bring back is an event.

use std::time::Instant;

use tokio::sync::mpsc;

use super::effects::Host;
use super::green::Newborn;
use crate::model::event::{Event as Told, Phase};
use crate::model::identity::Generation;
use crate::model::message::{Drainer, GroupOrder};
use crate::model::rollout::{Effect, Event, Rollout};

/// How many inputs may wait: their sources wait when there is no room.
pub(crate) const QUEUE: usize = 64;

/// What comes to the driver.
#[derive(Debug)]
pub(crate) enum Input {
    /// An event of the machine.
    Rollout(Event),
    /// The next generation's process was spawned, or could not be.
    Spawned { green: Generation, result: Result<Box<Newborn>, String> },
    /// What green says about itself, for people.
    GreenStatus { green: Generation, text: String },
    /// The generations that drain, as the one before knows them.
    Draining(Vec<Drainer>),
    /// The generation before has closed its listeners; the order of the slots.
    BlueClosed(Vec<GroupOrder>),
    /// SIGUSR1.
    LogStatus,
    /// Has somebody joined our groups?
    LookForStrangers,
}

/// One generation's machine and its host.
pub(crate) struct Driver {
    pub(crate) rollout: Rollout,
    pub(crate) host: Host,
    pub(crate) inputs: mpsc::Receiver<Input>,
}

impl Driver {
    /// Runs until the generation has nothing left to do.
    pub(crate) async fn run(mut self) {
        let mut since = Instant::now();
        while self.rollout.phase() != Phase::Gone {
            let before = self.rollout.phase();
            let effects = self.next().await;
            let (after, now) = (self.rollout.phase(), Instant::now());
            if after != before {
                let elapsed = now.duration_since(since);
                let (generation, pid) = (self.host.generation, std::process::id());
                tracing::info!(%generation, pid, from = %before, to = %after, ?elapsed, "rollout");
                self.host.tell(Told::Phase { from: before, to: after });
                since = now;
            }
            for effect in effects {
                self.host.perform(effect);
            }
        }
        self.host.close();
    }

    async fn next(&mut self) -> Vec<Effect> {
        let deadline = self.rollout.deadline();
        let timeout = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let input = tokio::select! {
            input = self.inputs.recv() => input,
            () = timeout => return self.rollout.handle_timeout(Instant::now()),
        };
        match input {
            Some(Input::Rollout(event)) => return self.rollout.handle(event, Instant::now()),
            Some(Input::Spawned { green, result }) => {
                // Heard only from here on, so that nothing of it comes before its birth.
                let result = result.map(|newborn| self.host.adopt(*newborn));
                return self.rollout.handle(Event::Spawned { green, result }, Instant::now());
            }
            Some(Input::GreenStatus { green, text }) => tracing::info!(generation = %green, "{text:?}"),
            Some(Input::Draining(drainers)) => self.host.predecessors.learn(&drainers),
            Some(Input::BlueClosed(groups)) => self.host.take_over_groups(&groups),
            Some(Input::LogStatus) => self.host.log_status(self.rollout.phase()),
            Some(Input::LookForStrangers) if self.rollout.phase() == Phase::Serving => self.host.look_for_strangers(),
            Some(Input::LookForStrangers) => {}
            // The host holds a sender, so the channel does not end.
            None => {}
        }
        vec![]
    }
}
