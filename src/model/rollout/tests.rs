//! The machine in virtual time: its edges one by one, and a random walk that looks for a broken promise.

use proptest::prelude::*;

use super::*;
use crate::model::event::Outcome;
use crate::model::identity::Pid;

const TIMES: Times =
    Times { ready: Duration::from_secs(30), linger: Duration::from_secs(5), drain: Duration::from_secs(60) };
const ONE: Generation = Generation::FIRST;

fn two() -> Generation {
    Generation::new(2)
}

/// A machine, its clock, and all effects so far.
struct Bench {
    rollout: Rollout,
    now: Instant,
    effects: Vec<Effect>,
}

impl Bench {
    fn serving() -> Bench {
        Bench { rollout: Rollout::serving(ONE, TIMES), now: Instant::now(), effects: vec![] }
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        self.now += Duration::from_millis(1);
        let effects = self.rollout.handle(event, self.now);
        self.effects.extend(effects.clone());
        effects
    }

    fn after(&mut self, time: Duration) -> Vec<Effect> {
        self.now += time;
        self.rollout.handle_timeout(self.now)
    }

    /// Goes on, with success, until green is waited for.
    fn starting() -> Bench {
        let mut bench = Bench::serving();
        let green = two();
        bench.on(Event::ReloadRequested);
        bench.on(Event::PreflightDone { green, result: Ok(()) });
        bench.on(Event::Gated { green });
        bench.on(Event::Spawned { green, result: Ok(Pid::new(77)) });
        assert_eq!(bench.rollout.phase(), Phase::Starting);
        bench
    }

    fn retiring() -> Bench {
        let mut bench = Bench::starting();
        let green = two();
        bench.on(Event::GreenReady { green });
        bench.on(Event::Verified { green, result: Ok(()) });
        bench.on(Event::CutOver { green, result: Ok(()) });
        assert_eq!(bench.rollout.phase(), Phase::Retiring);
        bench
    }

    fn reason(&self) -> String {
        let reasons: Vec<_> = self.effects.iter().filter_map(rolled_back).collect();
        assert_eq!(reasons.len(), 1, "{:?}", self.effects);
        reasons[0].clone()
    }
}

fn rolled_back(effect: &Effect) -> Option<&String> {
    match effect {
        Effect::Report(Outcome::RolledBack { reason, .. }) => Some(reason),
        _ => None,
    }
}

#[test]
fn a_good_reload_goes_through_every_step_in_order() {
    let mut bench = Bench::retiring();
    bench.on(Event::ListenersClosed);
    assert_eq!(bench.rollout.phase(), Phase::Draining);
    bench.on(Event::ConnectionsGone);
    assert_eq!(bench.rollout.phase(), Phase::Gone);
    let green = two();
    let took = Duration::from_millis(6);
    assert_eq!(
        bench.effects,
        [
            Effect::Preflight { green },
            Effect::Gate { green },
            Effect::Spawn { green },
            Effect::Verify { green },
            Effect::CutOver { green },
            Effect::HandOver { green },
            Effect::Report(Outcome::Done { generation: green, pid: Pid::new(77), took }),
            Effect::Retire,
            Effect::AwaitConnections,
            Effect::Finish,
        ]
    );
}

#[test]
fn a_refused_preflight_ends_it_before_anything_is_touched() {
    let mut bench = Bench::serving();
    bench.on(Event::ReloadRequested);
    bench.on(Event::PreflightDone { green: two(), result: Err("is not there".into()) });
    assert_eq!((bench.rollout.phase(), bench.reason().as_str()), (Phase::Serving, "is not there"));
    assert!(!bench.effects.contains(&Effect::SteerBack));
}

#[test]
fn a_green_that_is_not_ready_in_time_is_killed_and_the_number_is_not_used_again() {
    let mut bench = Bench::starting();
    assert_eq!(bench.after(Duration::from_secs(29)), []);
    let effects = bench.after(Duration::from_secs(2));
    assert_eq!(effects, [Effect::SteerBack, Effect::Kill { green: two() }]);
    bench.on(Event::GreenExited { green: two(), how: "was killed by SIGKILL (9)".into() });
    assert_eq!(bench.reason(), "did not become ready in 30s");
    assert_eq!(bench.rollout.phase(), Phase::Serving);
    assert_eq!(bench.on(Event::ReloadRequested), [Effect::Preflight { green: Generation::new(3) }]);
}

#[test]
fn green_can_ask_for_more_time() {
    let mut bench = Bench::starting();
    bench.on(Event::GreenExtends { green: two(), by: Duration::from_secs(100) });
    assert_eq!(bench.after(Duration::from_secs(90)), []);
    assert_eq!(bench.after(Duration::from_secs(11)).len(), 2);
}

#[test]
fn what_belongs_to_another_attempt_changes_nothing() {
    let mut bench = Bench::starting();
    let green = Generation::new(9);
    for event in [
        Event::GreenReady { green },
        Event::GreenExited { green, how: "exited".into() },
        Event::GreenFailed { green, reason: "no".into() },
        Event::Verified { green, result: Ok(()) },
        Event::CutOver { green, result: Ok(()) },
    ] {
        assert_eq!(bench.on(event), []);
        assert_eq!(bench.rollout.phase(), Phase::Starting);
    }
}

#[test]
fn green_dead_before_and_after_ready_is_told_apart() {
    let mut bench = Bench::starting();
    bench.on(Event::GreenExited { green: two(), how: "exited with status 1".into() });
    assert_eq!(bench.reason(), "exited with status 1 before it was ready");

    let mut bench = Bench::starting();
    bench.on(Event::GreenReady { green: two() });
    bench.on(Event::GreenExited { green: two(), how: "was killed by SIGKILL (9)".into() });
    assert_eq!(bench.reason(), "was killed by SIGKILL (9) as soon as it was ready");
    assert!(bench.effects.contains(&Effect::SteerBack));
}

#[test]
fn green_dead_after_retire_is_said_and_nothing_is_taken_back() {
    let mut bench = Bench::retiring();
    let how = "exited".to_owned();
    let lost = bench.on(Event::GreenExited { green: two(), how: how.clone() });
    assert_eq!(lost, [Effect::GreenLost { green: two(), how }]);
    assert_eq!(bench.rollout.phase(), Phase::Retiring);
}

#[test]
fn a_second_reload_is_refused_with_the_reason() {
    let mut bench = Bench::starting();
    let refused = bench.on(Event::ReloadRequested);
    assert_eq!(refused, [Effect::Refuse { reason: "the rollout of generation 2 is under way in generation 1".into() }]);
}

#[test]
fn a_stop_in_a_rollout_gives_it_up_and_then_stops() {
    let mut bench = Bench::starting();
    assert_eq!(bench.on(Event::StopRequested), [Effect::SteerBack, Effect::Kill { green: two() }]);
    let effects = bench.on(Event::GreenExited { green: two(), how: "was killed".into() });
    assert_eq!(effects.last(), Some(&Effect::StopAccepting));
    assert_eq!(bench.reason(), "was given up: a stop was asked for");
    assert_eq!(bench.on(Event::ReloadRequested).len(), 1, "refused");
}

#[test]
fn a_second_stop_is_at_once() {
    let mut bench = Bench::serving();
    bench.on(Event::StopRequested);
    assert_eq!(bench.on(Event::StopRequested), [Effect::Hammer, Effect::Finish]);
    assert_eq!(bench.rollout.phase(), Phase::Gone);
}

#[test]
fn a_spawn_that_comes_back_too_late_is_killed() {
    let mut bench = Bench::serving();
    let green = two();
    bench.on(Event::ReloadRequested);
    bench.on(Event::PreflightDone { green, result: Ok(()) });
    bench.on(Event::Gated { green });
    assert_eq!(bench.after(STEP), [Effect::SteerBack]);
    assert_eq!(bench.rollout.phase(), Phase::RollingBack);
    assert_eq!(bench.on(Event::Spawned { green, result: Ok(Pid::new(5)) }), [Effect::Kill { green }]);
    bench.on(Event::GreenExited { green, how: "was killed".into() });
    assert!(bench.reason().contains("could not be started"));
}

#[test]
fn what_cannot_be_spawned_is_not_waited_for() {
    let green = two();
    let attempt = || {
        let mut bench = Bench::serving();
        bench.on(Event::ReloadRequested);
        bench.on(Event::PreflightDone { green, result: Ok(()) });
        bench.on(Event::Gated { green });
        bench
    };
    let mut bench = attempt();
    bench.on(Event::Spawned { green, result: Err("Exec format error".into()) });
    assert_eq!((bench.rollout.phase(), bench.reason().as_str()), (Phase::Serving, "Exec format error"));

    // Its end is told before its beginning: the host does not do so, and yet nothing may hang.
    let mut bench = attempt();
    bench.on(Event::GreenExited { green, how: "exited with status 1".into() });
    assert_eq!(bench.rollout.phase(), Phase::Serving);
    bench.reason();
}

#[test]
fn the_drain_ends_by_the_hammer() {
    let mut bench = Bench::retiring();
    bench.on(Event::ListenersClosed);
    assert_eq!(bench.after(TIMES.drain), [Effect::Hammer]);
    assert_eq!(bench.after(HAMMER), [Effect::Finish]);

    let mut bench = Bench::retiring();
    assert_eq!(bench.on(Event::HammerRequested), [], "the listeners first");
    assert_eq!(bench.on(Event::ListenersClosed), [Effect::AwaitConnections, Effect::Hammer]);
}

#[test]
fn standby_becomes_live_once() {
    let mut rollout = Rollout::standby(two(), TIMES);
    let now = Instant::now();
    assert_eq!(rollout.handle(Event::Live, now), [Effect::BecomeLive]);
    assert_eq!(rollout.handle(Event::Live, now), []);
    assert_eq!(rollout.handle(Event::ReloadRequested, now), [Effect::Preflight { green: Generation::new(3) }]);
}

#[test]
fn a_reload_that_is_asked_for_a_moment_before_it_is_live_is_not_lost() {
    let mut rollout = Rollout::standby(two(), TIMES);
    let now = Instant::now();
    assert_eq!(rollout.handle(Event::ReloadRequested, now), []);
    assert_eq!(rollout.phase(), Phase::Standby);
    let green = Generation::new(3);
    assert_eq!(rollout.handle(Event::Live, now), [Effect::BecomeLive, Effect::Preflight { green }]);
}

/// A world that performs the effects, at random, and knows what must never be.
struct World {
    rollout: Rollout,
    now: Instant,
    pending: Vec<Event>,
    begun: usize,
    outcomes: usize,
    steered_to_green: bool,
    verified: bool,
    retired: bool,
    stopping: bool,
}

impl World {
    fn new(standby: bool) -> World {
        let rollout = if standby { Rollout::standby(ONE, TIMES) } else { Rollout::serving(ONE, TIMES) };
        World {
            rollout,
            now: Instant::now(),
            pending: vec![],
            begun: 0,
            outcomes: 0,
            steered_to_green: false,
            verified: false,
            retired: false,
            stopping: false,
        }
    }

    fn perform(&mut self, effects: Vec<Effect>, good: bool) {
        let result = if good { Ok(()) } else { Err("by chance".to_owned()) };
        for effect in effects {
            match effect {
                Effect::Preflight { green } => {
                    self.begun += 1;
                    self.pending.push(Event::PreflightDone { green, result: result.clone() });
                }
                Effect::Gate { green } => self.pending.push(Event::Gated { green }),
                Effect::Spawn { green } => {
                    self.verified = false;
                    let result = result.clone().map(|()| Pid::new(100 + green.number()));
                    self.pending.push(Event::Spawned { green, result });
                    self.pending.push(Event::GreenReady { green });
                }
                Effect::Verify { green } => {
                    self.verified = good;
                    self.pending.push(Event::Verified { green, result: result.clone() });
                }
                Effect::CutOver { green } => {
                    assert!(self.verified, "steered to a green that nobody has looked at");
                    self.steered_to_green = good;
                    self.pending.push(Event::CutOver { green, result: result.clone() });
                }
                Effect::SteerBack => {
                    assert!(!self.retired, "rolled back after retire");
                    self.steered_to_green = false;
                }
                Effect::Kill { green } => {
                    assert!(!self.retired, "killed after retire");
                    assert!(!self.steered_to_green || self.stopping, "killed while users are steered to it");
                    self.pending.push(Event::GreenExited { green, how: "was killed".into() });
                }
                Effect::Retire => {
                    assert!(self.steered_to_green && self.verified, "nobody accepts");
                    self.retired = true;
                    self.pending.push(Event::ListenersClosed);
                }
                Effect::StopAccepting => {
                    assert!(self.stopping, "closed the listeners, and nobody had asked for it");
                    self.pending.push(Event::ListenersClosed);
                }
                Effect::AwaitConnections => self.pending.push(Event::ConnectionsGone),
                Effect::Report(outcome) => {
                    self.outcomes += 1;
                    assert!(!self.retired && matches!(outcome, Outcome::Done { .. } | Outcome::RolledBack { .. }));
                }
                Effect::HandOver { .. } => assert!(self.steered_to_green, "handed over before it was steered to"),
                Effect::CloseNow
                | Effect::Hammer
                | Effect::HammerPredecessors
                | Effect::BecomeLive
                | Effect::Refuse { .. }
                | Effect::GreenLost { .. }
                | Effect::Finish => {}
            }
        }
        let rests = matches!(self.rollout.phase(), Phase::Standby | Phase::Serving | Phase::Gone);
        assert_eq!(self.rollout.deadline().is_none(), rests, "{:?} waits without a deadline", self.rollout.phase());
        assert!(self.begun - self.outcomes <= 1, "a reload without an outcome");
    }

    fn step(&mut self, (what, which, good): (u8, u8, bool)) {
        self.now += Duration::from_millis(u64::from(which));
        let green = Generation::new(u32::from(which % 8) + 2);
        let event = match what {
            0 => Event::ReloadRequested,
            1 => Event::HammerRequested,
            2 if which == 0 => {
                self.stopping = true;
                Event::StopRequested
            }
            3 => Event::Live,
            4 => Event::GreenExited { green, how: "died".into() },
            5 => Event::GreenFailed { green, reason: "says no".into() },
            6 => Event::GreenExtends { green, by: Duration::from_secs(which.into()) },
            7 => return self.time_out(good),
            _ if self.pending.is_empty() => return,
            _ => self.pending.remove(usize::from(which) % self.pending.len()),
        };
        // A green that died by itself before users were steered back leaves them to the kernel's fallback.
        let effects = self.rollout.handle(event, self.now);
        self.perform(effects, good);
    }

    fn time_out(&mut self, good: bool) {
        if let Some(deadline) = self.rollout.deadline() {
            self.now = self.now.max(deadline);
            let effects = self.rollout.handle_timeout(self.now);
            self.perform(effects, good);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_walk_breaks_a_promise(standby: bool, steps in proptest::collection::vec((0_u8..16, any::<u8>(), any::<bool>()), 1..300)) {
        let mut world = World::new(standby);
        for step in steps {
            world.step(step);
        }
        // From wherever it is, time alone brings it to rest.
        for _ in 0..8 {
            world.time_out(false);
        }
        prop_assert!(matches!(world.rollout.phase(), Phase::Standby | Phase::Serving | Phase::Gone), "{:?}", world.rollout);
        prop_assert_eq!(world.begun, world.outcomes, "each reload has exactly one outcome");
    }
}
