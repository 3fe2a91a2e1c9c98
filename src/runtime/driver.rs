//! The loop: an event comes, the model answers with effects, the host performs them, what they bring back is an event.

use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::rollout_steps;
use super::status::{Depth, Draft};
use crate::model::event::{Event, Phase};
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::{Effect, Rollout, RolloutEvent};
use crate::model::status::RolloutStatus;

/// How many inputs may wait: their sources wait when there is no room.
pub(crate) const QUEUE: usize = 64;

/// What comes to the driver of any host.
#[derive(Debug)]
pub(crate) enum Input {
    /// An event of the machine.
    Rollout(RolloutEvent),
    /// Somebody wants an answer.
    Ask(Ask),
    /// Time to tell the service manager how it stands.
    Heartbeat,
    /// SIGUSR1.
    LogStatus,
    /// Has somebody joined our groups?
    LookForStrangers,
}

/// A question, with the way back for the answer.
#[derive(Debug)]
pub(crate) enum Ask {
    /// How it stands.
    Status { depth: Depth, reply: oneshot::Sender<Result<Draft, Refused>> },
    /// Does the machine take this event? With the rollout that is under way then.
    Do { event: RolloutEvent, reply: oneshot::Sender<Result<Option<RolloutStatus>, Refused>> },
}

/// Why an answer is no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Not now.
    WrongTime(String),
    /// Not this generation: the next one has the leadership, or is about to.
    Retired(String),
}

impl Refused {
    /// What is said when nobody answers any more.
    pub(crate) fn gone() -> Refused {
        Refused::Retired("this generation is gone: ask again".into())
    }
}

/// Performs the effects of one generation's machine.
pub(crate) trait Host: Send {
    /// What comes to this kind of host only.
    type HostEvent: Send;

    /// Whose machine it is.
    fn who(&self) -> (Generation, Pid);
    /// Performs one effect: at once, or in the background, and then the result comes as an event.
    fn perform(&mut self, effect: Effect);
    /// Takes one piece of news, which may be an event of the machine.
    fn take(&mut self, host_event: Self::HostEvent, rollout: &Rollout) -> Option<RolloutEvent>;
    /// Tells those who watch the events.
    fn tell(&self, event: Event);
    /// The driver lives.
    fn heartbeat(&mut self, rollout: &Rollout);
    /// Who lives, and how it stands with them.
    fn status(&mut self, rollout: &Rollout, depth: Depth) -> Draft;
    fn log_status(&mut self, phase: Phase);
    /// Asked while no rollout is under way.
    fn look_for_strangers(&mut self);
    /// The end of this generation.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
    /// Where events of the machine go.
    fn inputs(&self) -> &mpsc::Sender<Input>;

    /// Gives the machine an event.
    fn send(&self, event: RolloutEvent) {
        let inputs = self.inputs().clone();
        // Not awaited here: the driver that would make room is the caller.
        tokio::spawn(async move { inputs.send(Input::Rollout(event)).await });
    }

    /// Performs `work`, whose result is an event, in the background.
    fn in_background(&self, work: impl Future<Output = RolloutEvent> + Send + 'static) -> AbortHandle {
        let inputs = self.inputs().clone();
        let task = tokio::spawn(async move {
            let event = work.await;
            // The driver is gone only when nobody needs the result.
            let _ = inputs.send(Input::Rollout(event)).await;
        });
        task.abort_handle()
    }
}

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
            if after != before {
                let elapsed = now.duration_since(since);
                let (generation, pid) = self.host.who();
                tracing::info!(%generation, %pid, from = %before, to = %after, ?elapsed, "rollout");
                self.host.tell(Event::Phase { from: before, to: after });
                since = now;
            }
            for effect in effects {
                if let Some(told) = rollout_steps::told(self.host.who().0, &effect) {
                    self.host.tell(told);
                }
                self.host.perform(effect);
            }
            if after != before {
                self.host.heartbeat(&self.rollout);
            }
        }
        // From here on nobody is answered, and a process that is still being spawned is ended by whoever spawns it.
        drop((self.inputs, self.host_events));
        self.host.close().await;
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

    /// Whoever asks may have gone away in the meantime, which is nothing to us.
    fn answer(&mut self, ask: Ask) -> Vec<Effect> {
        // What this generation knows of itself stays true: a scrape that came to it is answered by it.
        let of_itself = matches!(ask, Ask::Status { depth: Depth::Own, .. });
        if let Some(next) = self.rollout.successor().filter(|_| !of_itself) {
            let (me, pid) = self.host.who();
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
                let refused = effects.iter().find_map(|effect| match effect {
                    Effect::Refuse { reason, .. } => Some(Refused::WrongTime(reason.clone())),
                    _ => None,
                });
                let _ = reply.send(refused.map_or_else(|| Ok(self.rollout.status(now)), Err));
                effects
            }
        }
    }
}
