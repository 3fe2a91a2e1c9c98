//! The driver with a host that only records what it is to do, and does what the test says.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{broadcast, oneshot, watch};

use super::*;
use crate::model::event::Outcome;
use crate::model::handover::History;
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::{DrainScope, Failure, Plan, RolloutEvent};
use crate::model::status::Status;
use crate::runtime::context::{Context, Parts};
use crate::runtime::groups::{Groups, Steering, Table};
use crate::runtime::host::Look;
use crate::runtime::input::QUEUE;
use crate::runtime::offload::{Stalled, attempts};
use crate::runtime::probe::Probe;
use crate::runtime::status::{Draft, Known};

const ME: Pid = Pid::new(11);
const GREEN: Pid = Pid::new(12);
const LONG: Duration = Duration::from_secs(60);

fn two() -> Generation {
    Generation::FIRST.next()
}

/// The calls of a host, in their order.
#[derive(Debug, Clone, Default)]
struct Calls(Arc<Mutex<Vec<&'static str>>>);

impl Calls {
    fn add(&self, call: &'static str) {
        self.0.lock().expect("no panic").push(call);
    }

    fn all(&self) -> Vec<&'static str> {
        self.0.lock().expect("no panic").clone()
    }

    /// Waits until this call was made.
    async fn until(&self, call: &str) {
        let made = async {
            while !self.all().contains(&call) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, made).await.unwrap_or_else(|_| panic!("no {call} in {:?}", self.all()));
    }
}

struct FakeHost {
    context: Context,
    calls: Calls,
    /// What the preflight says.
    preflight: Result<(), Failure>,
}

impl Host for FakeHost {
    type HostEvent = RolloutEvent;

    fn context(&self) -> &Context {
        &self.context
    }

    fn context_mut(&mut self) -> &mut Context {
        &mut self.context
    }

    fn take(&mut self, host_event: RolloutEvent, _: &Rollout) -> Option<RolloutEvent> {
        Some(host_event)
    }

    fn heartbeat(&mut self, _: &Rollout) {
        self.calls.add("heartbeat");
    }

    fn status(&mut self, rollout: &Rollout, depth: Depth) -> Draft {
        let known = Known {
            name: "fake".into(),
            addresses: vec![],
            unix: Vec::new(),
            steering: self.context.groups.tier(),
            own: self.context.who(),
            connections: Some(0),
            kinds: None,
            green: Some((two(), GREEN)),
            draining: vec![],
            history: History::default(),
            supervisor: None,
            processes: BTreeMap::new(),
        };
        Draft::new(known, rollout, depth)
    }

    fn log_status(&mut self, _: Phase) {
        self.calls.add("log status");
    }

    fn look_for_strangers(&mut self) {
        self.calls.add("look for strangers");
    }

    async fn close(&mut self) {
        self.calls.add("close");
    }

    fn tell_reloading(&mut self) {
        self.calls.add("reloading");
    }

    fn tell_ready(&mut self) {
        self.calls.add("ready");
    }

    fn record(&mut self, _: Outcome) {
        self.calls.add("record");
    }

    fn preflight(&self) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        self.calls.add("preflight");
        ready(self.preflight.clone())
    }

    fn before_gate(&self) -> impl Future<Output = Result<(), Stalled>> + Send + 'static {
        self.calls.add("before gate");
        ready(Ok(()))
    }

    fn spawn(&self, green: Generation) {
        self.calls.add("spawn");
        self.context.send(RolloutEvent::Spawned { green, result: Ok(GREEN) });
    }

    fn look(&self, _: Generation) -> Option<Look> {
        self.calls.add("look");
        Some(Look { told: Box::pin(ready(None)), holders: Box::new(|| None), lane: attempts() })
    }

    fn probe(&self) -> Option<Probe> {
        None
    }

    fn follow(&self, _: Generation) -> impl Future<Output = Result<(), Stalled>> + Send + 'static {
        self.calls.add("follow");
        ready(Ok(()))
    }

    fn kill(&self, green: Generation) {
        let (calls, inputs) = (self.calls.clone(), self.context.inputs.clone());
        let killed = self.context.groups.run(move |_| calls.add("kill"));
        tokio::spawn(async move {
            killed.await.expect("no panic");
            inputs.send(Input::Rollout(RolloutEvent::GreenExited { green, how: "was killed".into() })).await
        });
    }

    fn release(&mut self, _: Generation) {
        self.calls.add("release");
    }

    fn forget_green(&mut self) {
        self.calls.add("forget green");
    }

    fn hand_over(&mut self, _: Generation, _: Duration) {
        self.calls.add("hand over");
    }

    fn retire(&mut self) {
        self.calls.add("retire");
        self.context.send(RolloutEvent::ListenersClosed);
    }

    fn stop_accepting(&mut self) {
        self.calls.add("stop accepting");
        self.context.send(RolloutEvent::ListenersClosed);
    }

    fn await_connections(&mut self, _: DrainScope) {
        self.calls.add("drain");
    }

    fn force_close(&self) {
        self.calls.add("force close");
        self.context.send(RolloutEvent::ConnectionsGone);
    }

    fn force_close_predecessors(&mut self) {
        self.calls.add("force close predecessors");
    }
}

/// A driver that runs, and the other ends of its channels.
struct Bench {
    calls: Calls,
    groups: Groups,
    inputs: mpsc::Sender<Input>,
    host_events: mpsc::Sender<RolloutEvent>,
    events: broadcast::Receiver<Event>,
    running: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn start(preflight: Result<(), Failure>) -> Bench {
        let plan = Plan { ready: LONG, linger: LONG, drain: LONG, probe: None, canary: vec![], soak: Duration::ZERO };
        let (inputs, received) = mpsc::channel(QUEUE);
        let (host_events, arriving) = mpsc::channel(QUEUE);
        let (told, events) = broadcast::channel(QUEUE);
        let groups = Groups::new(Table::watching(&[], Steering::Off));
        let context = Context::new(Parts {
            generation: Generation::FIRST,
            pid: ME,
            groups: groups.clone(),
            needs_steering: false,
            attempts: attempts(),
            inputs: inputs.clone(),
            events: told,
            passed_on: watch::Sender::new(false),
        });
        let calls = Calls::default();
        let host = FakeHost { context, calls: calls.clone(), preflight };
        let rollout = Rollout::serving(Generation::FIRST, ME, plan);
        let running = tokio::spawn(Driver { rollout, host, inputs: received, host_events: arriving }.run());
        Bench { calls, groups, inputs, host_events, events, running }
    }

    async fn input(&self, input: Input) {
        self.inputs.send(input).await.expect("the driver runs");
    }

    async fn event(&self, event: RolloutEvent) {
        self.input(Input::Rollout(event)).await;
    }

    async fn status(&self, depth: Depth) -> Result<Status, Refused> {
        let (reply, answer) = oneshot::channel();
        self.input(Input::Ask(Ask::Status { depth, reply })).await;
        answer.await.expect("an answer").map(|draft| draft.status)
    }

    /// The outcome of the reload.
    async fn outcome(&mut self) -> Outcome {
        loop {
            if let Event::Reload(outcome) = self.events.recv().await.expect("the driver runs") {
                return outcome;
            }
        }
    }
}

#[tokio::test]
async fn a_reload_goes_from_step_to_step_and_ends_this_generation() {
    let mut bench = Bench::start(Ok(()));
    bench.event(RolloutEvent::ReloadRequested).await;
    bench.calls.until("spawn").await;
    bench.event(RolloutEvent::GreenReady { green: two() }).await;
    assert!(matches!(bench.outcome().await, Outcome::Done { generation, pid: GREEN, .. } if generation == two()));
    bench.calls.until("drain").await;
    bench.event(RolloutEvent::ConnectionsGone).await;
    bench.running.await.expect("it has ended");
    let steps: Vec<_> = bench.calls.all().into_iter().filter(|call| *call != "heartbeat").collect();
    let forward = ["reloading", "preflight", "before gate", "spawn", "look", "follow"];
    assert_eq!(steps, [&forward[..], &["hand over", "retire", "drain", "close"]].concat());
}

#[tokio::test]
async fn a_preflight_that_fails_ends_the_rollout_and_nothing_was_begun() {
    let mut bench = Bench::start(Err(Failure::Step("was refused".into())));
    bench.event(RolloutEvent::ReloadRequested).await;
    let outcome = bench.outcome().await;
    assert!(matches!(outcome, Outcome::RolledBack { ref reason, .. } if reason == "was refused"), "{outcome:?}");
    let calls: Vec<_> = bench.calls.all().into_iter().filter(|call| *call != "heartbeat").collect();
    assert_eq!(calls, ["reloading", "preflight", "forget green", "record", "ready"]);
}

/// An operation on the groups may take a second. The driver answers meanwhile; and green is killed only when the groups
/// were steered back, because a new connection could come to green before.
#[tokio::test]
async fn a_slow_operation_on_the_groups_delays_the_kill_and_not_the_driver() {
    let mut bench = Bench::start(Ok(()));
    bench.event(RolloutEvent::ReloadRequested).await;
    bench.calls.until("spawn").await;
    let (go, wait) = std::sync::mpsc::channel::<()>();
    bench.groups.post(move |_| {
        // An error means that the test lets it go.
        let _ = wait.recv();
    });
    bench.event(RolloutEvent::RollbackRequested).await;
    for _ in 0..10 {
        let status = bench.status(Depth::All).await.expect("the live generation answers");
        assert_eq!(status.rollout.expect("it is under way").phase, Phase::RollingBack);
    }
    assert!(!bench.calls.all().contains(&"kill"), "before the groups were steered back");
    drop(go);
    assert!(matches!(bench.outcome().await, Outcome::RolledBack { .. }));
    assert!(bench.calls.all().contains(&"kill"));
}

/// After a second stop the process ends. A green that lives on would become live.
#[tokio::test]
async fn a_stop_at_once_does_not_end_before_green_is_killed() {
    let bench = Bench::start(Ok(()));
    bench.event(RolloutEvent::ReloadRequested).await;
    bench.calls.until("spawn").await;
    let (go, wait) = std::sync::mpsc::channel::<()>();
    bench.groups.post(move |_| {
        // An error means that the test lets it go.
        let _ = wait.recv();
    });
    bench.event(RolloutEvent::StopRequested).await;
    bench.event(RolloutEvent::StopRequested).await;
    bench.calls.until("force close").await;
    // The driver has nothing to do but to wait: each yield would let it end.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(!bench.running.is_finished() && !bench.calls.all().contains(&"close"));
    drop(go);
    bench.running.await.expect("it ends");
    let calls = bench.calls.all();
    let place =
        |call: &str| calls.iter().position(|made| *made == call).unwrap_or_else(|| panic!("no {call}: {calls:?}"));
    assert!(place("kill") < place("close"), "{calls:?}");
}

#[tokio::test]
async fn a_generation_that_retires_answers_only_for_itself() {
    let mut bench = Bench::start(Ok(()));
    bench.event(RolloutEvent::ReloadRequested).await;
    bench.calls.until("spawn").await;
    bench.event(RolloutEvent::GreenReady { green: two() }).await;
    bench.outcome().await;
    bench.calls.until("drain").await;
    assert!(matches!(bench.status(Depth::All).await, Err(Refused::Retired(why)) if why.contains("ask again")));
    let own = bench.status(Depth::Own).await.expect("its own metrics");
    assert_eq!(
        own.generations.iter().find(|one| one.generation == Generation::FIRST).expect("it").phase,
        Phase::Draining
    );
    let (reply, answer) = oneshot::channel();
    bench.input(Input::Ask(Ask::Do { event: RolloutEvent::ReloadRequested, reply })).await;
    assert!(matches!(answer.await.expect("an answer"), Err(Refused::Retired(_))));
}

#[tokio::test]
async fn a_request_at_the_wrong_time_is_refused_and_changes_nothing() {
    let bench = Bench::start(Ok(()));
    let (reply, answer) = oneshot::channel();
    bench.input(Input::Ask(Ask::Do { event: RolloutEvent::PromoteRequested, reply })).await;
    assert!(matches!(answer.await.expect("an answer"), Err(Refused::WrongTime(_))));
    assert_eq!(bench.calls.all(), Vec::<&str>::new());
}

/// Strangers are looked for only while no rollout moves connections.
#[tokio::test]
async fn strangers_are_not_looked_for_in_a_rollout() {
    let bench = Bench::start(Ok(()));
    bench.input(Input::LookForStrangers).await;
    bench.calls.until("look for strangers").await;
    bench.event(RolloutEvent::ReloadRequested).await;
    bench.calls.until("spawn").await;
    bench.input(Input::LookForStrangers).await;
    bench.input(Input::LogStatus).await;
    bench.calls.until("log status").await;
    assert_eq!(bench.calls.all().iter().filter(|call| **call == "look for strangers").count(), 1);
}

/// The task that spawns a process keeps it if nobody takes it: here it must get it back.
#[tokio::test]
async fn after_the_end_an_event_of_the_host_comes_back_to_its_sender() {
    let bench = Bench::start(Ok(()));
    bench.event(RolloutEvent::StopRequested).await;
    bench.calls.until("drain").await;
    bench.event(RolloutEvent::StopRequested).await;
    bench.running.await.expect("it has ended");
    let late = RolloutEvent::Spawned { green: two(), result: Ok(GREEN) };
    let back = bench.host_events.send(late.clone()).await.expect_err("nobody takes it");
    assert_eq!(back.0, late);
}
