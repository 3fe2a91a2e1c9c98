//! The host with a process that is no server, and without a driver.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream as StdStream;

use tokio::sync::{broadcast, watch};

use super::*;
use crate::model::rollout::{Effect, Failure, Plan};
use crate::runtime::context::Parts;
use crate::runtime::effects::perform;
use crate::runtime::groups::{Groups, Steering};
use crate::runtime::host::Host as _;
use crate::runtime::input::{Input, QUEUE};
use crate::runtime::notifier::Notifier;
use crate::runtime::offload::attempts;
use crate::server::handover::Blue;

const LONG: Duration = Duration::from_secs(60);

fn plan() -> Plan {
    Plan { ready: LONG, linger: LONG, drain: LONG, probe: None, canary: vec![], soak: Duration::ZERO }
}

/// A host whose next generation would be a sleeper, and the events that come from it.
struct Bench {
    host: Host,
    rollout: Rollout,
    inputs: mpsc::Receiver<Input>,
    host_events: mpsc::Receiver<HostEvent>,
}

impl Bench {
    fn new() -> Bench {
        let ((inputs, received), (host_events, arriving)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
        let (generation, pid) = (Generation::FIRST, Pid::new(std::process::id()));
        let context = Context::new(Parts {
            generation,
            pid,
            groups: Groups::new(Table::watching(&[], Steering::Off)),
            needs_steering: false,
            attempts: attempts(),
            inputs,
            events: broadcast::Sender::new(QUEUE),
            passed_on: watch::Sender::new(false),
        });
        let settings = Settings {
            supply: Supply::default(),
            name: "test".into(),
            parent: None,
            launch: Arc::new(Launch::of(["/bin/sleep", "1000"])),
            addresses: vec![],
            offered: 0,
            linger: LONG,
            idle_grace: LONG,
            release: LONG,
            supervised: false,
            probe: None,
            before_reload: None,
        };
        let manager = ServiceManager::new(Notifier::new(None), None);
        let host = Host::new(context, settings, Connections::new(10), host_events, manager);
        Bench { host, rollout: Rollout::serving(generation, pid, plan()), inputs: received, host_events: arriving }
    }

    fn green() -> Generation {
        Generation::FIRST.next()
    }

    /// Handles an event as the driver does, but for the effects.
    fn handle(&mut self, event: RolloutEvent) -> Vec<Effect> {
        self.rollout.handle(event, std::time::Instant::now())
    }

    /// The machine up to the spawn of green, and the process of green, which the host has not taken yet.
    async fn spawned(&mut self) -> HostEvent {
        let green = Bench::green();
        drop(self.handle(RolloutEvent::ReloadRequested));
        drop(self.handle(RolloutEvent::PreflightDone { green, result: Ok(()) }));
        let effects = self.handle(RolloutEvent::Gated { green, result: Ok(()) });
        assert_eq!(effects, [Effect::Spawn { green }]);
        effects.into_iter().for_each(|effect| perform(&mut self.host, effect));
        self.host_events.recv().await.expect("the host sends")
    }

    /// How green has ended.
    async fn exited(&mut self) -> String {
        loop {
            let input = tokio::time::timeout(LONG, self.inputs.recv()).await.expect("in time").expect("the host sends");
            if let Input::Rollout(RolloutEvent::GreenExited { green, how }) = input {
                assert_eq!(green, Bench::green());
                return how;
            }
        }
    }
}

#[tokio::test]
async fn a_process_that_is_waited_for_is_taken_and_killed_on_demand() {
    let mut bench = Bench::new();
    let spawned = bench.spawned().await;
    let event = bench.host.take(spawned, &bench.rollout);
    assert!(matches!(event, Some(RolloutEvent::Spawned { result: Ok(_), .. })), "{event:?}");
    assert!(bench.host.with_green(Bench::green(), |_| ()).is_some());
    perform(&mut bench.host, Effect::Kill { green: Bench::green() });
    assert!(bench.exited().await.contains("SIGKILL"));
}

/// exec may wait for a disk for longer than its rollout lasts.
#[tokio::test]
async fn a_process_that_comes_after_its_rollout_is_killed_and_not_taken() {
    let mut bench = Bench::new();
    let spawned = bench.spawned().await;
    bench.rollout = Rollout::serving(Generation::FIRST, Pid::new(std::process::id()), plan());
    bench.host.take(spawned, &bench.rollout);
    assert!(bench.host.with_green(Bench::green(), |_| ()).is_none());
    assert!(bench.exited().await.contains("SIGKILL"));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let mut bench = Bench::new();
    bench.host.settings.launch = Arc::new(Launch::of(["/no/such/program"]));
    let spawned = bench.spawned().await;
    match bench.host.take(spawned, &bench.rollout) {
        Some(RolloutEvent::Spawned { result: Err(why), .. }) => {
            assert!(why.to_string().contains("/no/such/program"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

/// The hook of the application, and the disk, are asked off the runtime; a hook that panics refuses.
#[tokio::test]
async fn the_preflight_is_refused_by_a_hook_that_says_no_or_panics() {
    let mut bench = Bench::new();
    assert_eq!(bench.host.preflight().await, Ok(()));
    bench.host.settings.before_reload = Some(Arc::new(|| Err("not now".into())));
    assert_eq!(bench.host.preflight().await, Err(Failure::Step("was refused by the application: not now".into())));
    bench.host.settings.before_reload = Some(Arc::new(|| panic!("on purpose")));
    assert!(bench.host.preflight().await.expect_err("refused").to_string().contains("panicked"));
}

/// A next generation that was told to stop in the moment in which it gets the leadership takes nothing over. The one before
/// must not wait for that, because this one waits for its end.
#[tokio::test]
async fn a_generation_that_leaves_tells_the_one_before_that_it_need_not_wait() {
    let (blue, green) = StdStream::pair().expect("a pair");
    let mut bench = Bench::new();
    let spawn_info = serde_json::from_str(r#"{"generation":2,"blue":1,"blue_generation":1,"handover":"x"}"#);
    let spawn_info = spawn_info.expect("the least that there is");
    let connected = Blue::new(green).expect("connected");
    bench.host.to_blue = Some(ToBlue::start(connected, &spawn_info, bench.host.host_events.clone()));
    bench.rollout = Rollout::standby(Bench::green(), Pid::new(std::process::id()), plan());
    assert_eq!(bench.handle(RolloutEvent::StopRequested), [Effect::StopAccepting]);
    let event = bench.host.take(HostEvent::Blue(BlueEvent::Live(None)), &bench.rollout);
    assert_eq!(event, Some(RolloutEvent::Live));
    let mut line = String::new();
    blue.set_read_timeout(Some(LONG)).expect("set");
    BufReader::new(blue).read_line(&mut line).expect("a line");
    assert_eq!(line, "{\"kind\":\"live\"}\n");
}
