//! The launch of the first generation: the same steps, without a generation before it.

use proptest::prelude::*;

use super::*;

impl Bench {
    fn launch(plan: Plan) -> Bench {
        let mut bench = Bench { rollout: Rollout::launching(ME, plan), now: Instant::now(), effects: vec![] };
        assert_eq!(bench.on(RolloutEvent::ReloadRequested), [Effect::Spawn { green: ONE }]);
        bench
    }

    fn launched() -> Bench {
        let mut bench = Bench::launch(plain());
        assert_eq!(bench.on(RolloutEvent::Spawned { green: ONE, result: Ok(Pid::new(77)) }), []);
        bench
    }
}

fn exited(how: &str) -> RolloutEvent {
    RolloutEvent::GreenExited { green: ONE, how: how.into() }
}

fn failed(reason: impl Into<Failure>) -> [Effect; 2] {
    [Effect::LaunchFailed { reason: reason.into() }, Effect::Finish]
}

#[test]
fn a_generation_that_is_ready_is_live_and_the_launch_is_over() {
    let mut bench = Bench::launched();
    let effects = bench.on(RolloutEvent::GreenReady { green: ONE });
    assert!(matches!(effects[..], [Effect::HandOver { green: ONE, .. }, Effect::Finish]), "{effects:?}");
    assert_eq!(bench.rollout.phase(), Phase::Gone);
}

/// The canary and the soak need users of a generation before.
#[test]
fn of_a_whole_plan_only_the_probe_is_left() {
    let mut bench = Bench::launch(full());
    bench.on(RolloutEvent::Spawned { green: ONE, result: Ok(Pid::new(77)) });
    let effects = bench.on(RolloutEvent::GreenReady { green: ONE });
    assert_eq!(effects, [Effect::Probe { green: ONE, after: Duration::ZERO }]);
    let effects = bench.on(RolloutEvent::Probed { green: ONE, result: Ok(()) });
    assert!(matches!(effects[..], [Effect::HandOver { green: ONE, .. }, Effect::Finish]), "{effects:?}");
}

#[test]
fn one_that_fails_is_killed_and_nothing_is_left() {
    let mut bench = Bench::launched();
    assert_eq!(bench.after(SECOND * 30), [Effect::SteerBack { green: ONE }, Effect::Kill { green: ONE }]);
    assert_eq!(bench.on(exited("was killed")), failed(Failure::NotReady(SECOND * 30)));
    let mut bench = Bench::launched();
    bench.on(RolloutEvent::GreenFailed { green: ONE, reason: "could not start".into() });
    assert_eq!(bench.on(exited("was killed")), failed("could not start"));
    let mut bench = Bench::launch(plain());
    let effects = bench.on(RolloutEvent::Spawned { green: ONE, result: Err("cannot be found".into()) });
    assert_eq!(effects, [&[Effect::SteerBack { green: ONE }][..], &failed("cannot be found")].concat());
}

#[test]
fn one_that_ends_by_itself_says_how() {
    let mut bench = Bench::launched();
    let how = "exited with status 3".to_owned();
    let effects = bench.on(exited(&how));
    assert_eq!(
        effects,
        [&[Effect::SteerBack { green: ONE }][..], &failed(Failure::Exited { how, when: "before it was ready" })]
            .concat()
    );
}

#[test]
fn a_reload_is_refused_until_the_generation_is_live() {
    for mut bench in [Bench::launch(plain()), Bench::launched()] {
        let effects = bench.on(RolloutEvent::ReloadRequested);
        let [Effect::Refuse { asked: UserRequest::Reload, reason }] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(reason, "the first generation is not ready");
    }
}

/// A program that migrates a database as it starts must not be killed at once.
#[test]
fn a_stop_gives_a_generation_that_runs_the_time_of_a_drain() {
    let mut bench = Bench::launched();
    assert_eq!(bench.on(RolloutEvent::StopRequested), [Effect::StopAccepting]);
    assert_eq!(bench.on(RolloutEvent::ListenersClosed), [Effect::AwaitConnections(DrainScope::All)]);
    assert_eq!(bench.on(RolloutEvent::GreenReady { green: ONE }), []);
    assert_eq!(bench.after(SECOND * 60), [Effect::ForceClose, Effect::ForceClosePredecessors]);
    assert_eq!(bench.on(RolloutEvent::ConnectionsGone), [Effect::Finish]);
}

#[test]
fn a_second_stop_is_at_once() {
    let mut bench = Bench::launched();
    bench.on(RolloutEvent::StopRequested);
    bench.on(RolloutEvent::ListenersClosed);
    assert_eq!(bench.on(RolloutEvent::StopRequested), [Effect::ForceClose, Effect::Finish]);
}

#[test]
fn a_stop_during_the_spawn_waits_for_the_process_and_kills_it() {
    let mut bench = Bench::launch(plain());
    assert_eq!(bench.on(RolloutEvent::StopRequested), [Effect::SteerBack { green: ONE }]);
    assert_eq!(bench.on(RolloutEvent::StopRequested), []);
    let effects = bench.on(RolloutEvent::Spawned { green: ONE, result: Ok(Pid::new(77)) });
    assert!(effects.contains(&Effect::Kill { green: ONE }), "{effects:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// Whatever happens, a launch ends, and makes the generation live or fails; after a stop, it does not make it live.
    #[test]
    fn a_launch_ends_in_one_way(
        whole: bool, steps in proptest::collection::vec((0_u8..12, any::<bool>()), 0..60)
    ) {
        let mut bench = Bench::launch(if whole { full() } else { plain() });
        let mut stopped = false;
        for (what, good) in steps {
            let result = if good { Ok(()) } else { Err(Failure::from("by chance")) };
            let spawned = result.clone().map(|()| Pid::new(77));
            match what {
                0 => drop(bench.on(RolloutEvent::Spawned { green: ONE, result: spawned })),
                1 | 2 => drop(bench.on(RolloutEvent::GreenReady { green: ONE })),
                3..6 => drop(bench.on(RolloutEvent::Probed { green: ONE, result })),
                6 => drop(bench.on(exited("died"))),
                7 => {
                    stopped |= bench.rollout.phase() != Phase::Gone;
                    let live = bench.effects.iter().any(|effect| matches!(effect, Effect::HandOver { .. }));
                    bench.on(RolloutEvent::StopRequested);
                    let after = bench.effects.iter().any(|effect| matches!(effect, Effect::HandOver { .. }));
                    prop_assert_eq!(live, after);
                }
                8 => drop(bench.on(RolloutEvent::ListenersClosed)),
                9 => drop(bench.on(RolloutEvent::ConnectionsGone)),
                10 => drop(bench.on(RolloutEvent::RollbackRequested)),
                _ => drop(bench.after(SECOND)),
            }
        }
        for _ in 0..8 {
            if let Some(deadline) = bench.rollout.deadline() {
                bench.after(deadline.saturating_duration_since(bench.now));
            }
        }
        prop_assert_eq!(bench.rollout.phase(), Phase::Gone);
        let ends = bench.effects.iter().filter(|effect| matches!(effect, Effect::HandOver { .. } | Effect::LaunchFailed { .. }));
        let (ends, finished) = (ends.count(), bench.effects.iter().filter(|effect| **effect == Effect::Finish).count());
        prop_assert_eq!(finished, 1);
        prop_assert!(ends == 1 || (ends == 0 && stopped), "{:?}", bench.effects);
        let is_live = bench.effects.iter().any(|effect| matches!(effect, Effect::HandOver { .. }));
        prop_assert!(!(is_live && stopped), "{:?}", bench.effects);
    }
}
