//! The loop: an event comes, the model answers with effects, the host performs them, and their results come back as
//! events.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::effects;
use super::host::Host;
use super::input::{Ask, Input, Refused};
use super::status::Depth;
use crate::model::event::{Event, Phase};
use crate::model::rollout::{Effect, Rollout};

/// How long the end of a generation waits for operations on the groups that were begun: some system calls, or a second
/// for each group whose order of slots is being found out.
const OPERATIONS_MAX: Duration = Duration::from_secs(5);

/// One generation's machine and its host.
pub(crate) struct Driver<H: Host> {
    pub(crate) rollout: Rollout,
    pub(crate) host: H,
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) host_events: mpsc::Receiver<H::HostEvent>,
}

impl<H: Host> Driver<H> {
    /// Runs until the generation has nothing left to do.
    pub(crate) async fn run(mut self) {
        let mut since = Instant::now();
        while self.rollout.phase() != Phase::Gone {
            let before = self.rollout.phase();
            let effects = self.next().await;
            let (after, now) = (self.rollout.phase(), Instant::now());
            if after != before && !self.rollout.is_launch() {
                let elapsed = now.duration_since(since);
                let (generation, pid) = self.host.context().who();
                tracing::info!(%generation, %pid, from = %before, to = %after, ?elapsed, "rollout");
                self.host.context().tell(Event::Phase { from: before, to: after });
                since = now;
            }
            for effect in effects {
                effects::perform(&mut self.host, effect);
            }
            if after != before {
                self.host.heartbeat(&self.rollout);
            }
        }
        // From here on no question is answered, and a process that is still being spawned is ended by the code that
        // spawns it.
        drop(self.host_events);
        self.inputs.close();
        self.host.hand_on(std::iter::from_fn(|| self.inputs.try_recv().ok()).collect());
        // The process may end soon, and with it the threads: a green that is to be killed would be left behind, and
        // become live. A panic is logged.
        let _ = tokio::time::timeout(OPERATIONS_MAX, self.host.context().groups.run(|_| ())).await;
        self.host.close().await;
    }

    async fn next(&mut self) -> Vec<Effect> {
        let deadline = self.rollout.deadline();
        let timeout = async {
            match deadline {
                // The deadline of the machine's state; an input that comes first begins a new wait.
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let input = tokio::select! {
            input = self.inputs.recv() => input,
            Some(host_events) = self.host_events.recv() => {
                let event = self.host.take(host_events, &self.rollout);
                return event.map_or_else(Vec::new, |event| self.rollout.handle(event, Instant::now()));
            }
            () = timeout => return self.rollout.handle_timeout(Instant::now()),
        };
        match input {
            Some(Input::Rollout(event)) => return self.rollout.handle(event, Instant::now()),
            Some(Input::Ask(ask)) => return self.answer(ask),
            Some(Input::Heartbeat) => self.host.heartbeat(&self.rollout),
            Some(Input::LogStatus) => self.host.log_status(self.rollout.phase()),
            Some(Input::LookForStrangers) if self.rollout.phase() == Phase::Serving => self.host.look_for_strangers(),
            Some(Input::LookForStrangers) => {}
            // The host holds a sender, so the channel does not end.
            None => {}
        }
        vec![]
    }

    /// Answers a question. If the client has gone away in the meantime, the answer is dropped.
    fn answer(&mut self, ask: Ask) -> Vec<Effect> {
        // What this generation knows of itself stays true, so it still answers a scrape of its own metrics.
        let of_itself = matches!(ask, Ask::Status { depth: Depth::Own, .. });
        if let Some(next) = self.rollout.successor().filter(|_| !of_itself) {
            let (me, pid) = self.host.context().who();
            let why = format!("generation {me} (pid {pid}) retires, and generation {next} is live: ask again");
            match ask {
                Ask::Status { reply, .. } => drop(reply.send(Err(Refused::Retired(why)))),
                Ask::Do { reply, .. } => drop(reply.send(Err(Refused::Retired(why)))),
            }
            return vec![];
        }
        match ask {
            Ask::Status { depth, reply } => {
                let _ = reply.send(Ok(self.host.status(&self.rollout, depth)));
                vec![]
            }
            Ask::Do { event, reply } => {
                let now = Instant::now();
                let effects = self.rollout.handle(event, now);
                let refused = effects.iter().find_map(|effect| {
                    let Effect::Refuse { reason, .. } = effect else { return None };
                    Some(Refused::WrongTime(reason.clone()))
                });
                let _ = reply.send(refused.map_or_else(|| Ok(self.rollout.status(now)), Err));
                effects
            }
        }
    }
}

#[cfg(test)]
mod tests;
