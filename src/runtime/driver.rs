//! The loop: an event comes, the model answers with effects, the host performs them, and their results come back as
//! events.

use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::rollout_steps;
use super::status::{Depth, Draft};
use crate::model::event::{Event, Phase};
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::{Effect, Rollout, RolloutEvent};
use crate::model::status::RolloutStatus;

/// Capacity of the queue of inputs. When the queue is full, its senders wait.
pub(crate) const QUEUE: usize = 64;

/// The inputs of a driver that are the same for each host.
#[derive(Debug)]
pub(crate) enum Input {
    /// An event of the machine.
    Rollout(RolloutEvent),
    /// A question of a client of the control socket.
    Ask(Ask),
    /// It is time to tell the service manager the state of this generation.
    Heartbeat,
    /// SIGUSR1.
    LogStatus,
    /// It is time to look for foreign listeners in our groups.
    LookForStrangers,
}

/// A question, with the channel for its answer.
#[derive(Debug)]
pub(crate) enum Ask {
    /// The status.
    Status { depth: Depth, reply: oneshot::Sender<Result<Draft, Refused>> },
    /// Gives this event to the machine. The answer is the rollout that is under way then, or the machine's refusal.
    Do { event: RolloutEvent, reply: oneshot::Sender<Result<Option<RolloutStatus>, Refused>> },
}

/// Why a question was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The machine does not take this event in its current phase.
    WrongTime(String),
    /// This generation does not answer any more: the next generation has the leadership, or is about to get it.
    Retired(String),
}

impl Refused {
    /// The refusal when the driver does not answer any more.
    pub(crate) fn gone() -> Refused {
        Refused::Retired("this generation is gone: ask again".into())
    }
}

/// Performs the effects of one generation's machine.
pub(crate) trait Host: Send {
    /// The inputs of this kind of host only.
    type HostEvent: Send;

    /// The generation and the process that this machine belongs to.
    fn who(&self) -> (Generation, Pid);
    /// Performs one effect, at once or in the background; the result of background work comes as an event.
    fn perform(&mut self, effect: Effect);
    /// Takes one input of this kind of host, and returns the event of the machine that it represents, if any.
    fn take(&mut self, host_event: Self::HostEvent, rollout: &Rollout) -> Option<RolloutEvent>;
    /// Sends the event to all subscribers.
    fn tell(&self, event: Event);
    /// Called at each heartbeat and after each change of the phase: the driver is alive.
    fn heartbeat(&mut self, rollout: &Rollout);
    /// The status: the generations that live, and their states.
    fn status(&mut self, rollout: &Rollout, depth: Depth) -> Draft;
    fn log_status(&mut self, phase: Phase);
    /// Looks for foreign listeners in our groups. Called only while no rollout is under way.
    fn look_for_strangers(&mut self);
    /// Closes the host, at the end of this generation.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
    /// The queue of inputs of this host's driver.
    fn inputs(&self) -> &mpsc::Sender<Input>;

    /// Gives the machine an event.
    fn send(&self, event: RolloutEvent) {
        let inputs = self.inputs().clone();
        // Not awaited here: the caller is the driver, which alone can make room in the queue.
        tokio::spawn(async move { inputs.send(Input::Rollout(event)).await });
    }

    /// Performs `work` in the background. Its result goes to the machine as an event.
    fn in_background(&self, work: impl Future<Output = RolloutEvent> + Send + 'static) -> AbortHandle {
        let inputs = self.inputs().clone();
        let task = tokio::spawn(async move {
            let event = work.await;
            // If the driver is gone, the result is not needed.
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
        // From here on no question is answered, and a process that is still being spawned is ended by the code that
        // spawns it.
        drop((self.inputs, self.host_events));
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
