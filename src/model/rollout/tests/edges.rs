//! The state changes of a plain reload, and of the end of a generation.

use super::*;
use crate::model::rollout::plan::KILL;

const UNDER_WAY: &str = "the rollout of generation 2 is under way in generation 1 (pid 11)";

#[test]
fn a_good_reload_goes_through_every_step_in_order() {
    let mut bench = Bench::retiring();
    bench.on(RolloutEvent::ListenersClosed);
    assert_eq!(bench.rollout.phase(), Phase::Draining);
    bench.on(RolloutEvent::ConnectionsGone);
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
            Effect::CutOver { green, turn: Revocability::Final },
            Effect::HandOver { green, took },
            Effect::Report { outcome: Outcome::Done { generation: green, pid: Pid::new(77), took }, serves_on: false },
            Effect::Retire,
            Effect::AwaitConnections(DrainScope::Own),
            Effect::Finish,
        ]
    );
}

#[test]
fn a_refused_preflight_ends_it_before_anything_is_touched() {
    let mut bench = Bench::serving();
    bench.on(RolloutEvent::ReloadRequested);
    bench.on(RolloutEvent::PreflightDone { green: two(), result: Err("is not there".into()) });
    assert_eq!((bench.rollout.phase(), bench.reason().as_str()), (Phase::Serving, "is not there"));
    assert!(!bench.effects.contains(&Effect::SteerBack { green: two() }));
}

#[test]
fn a_green_that_is_not_ready_in_time_is_killed_and_the_number_is_not_used_again() {
    let mut bench = Bench::starting();
    assert_eq!(bench.after(Duration::from_secs(29)), []);
    let effects = bench.after(Duration::from_secs(2));
    assert_eq!(effects, [Effect::SteerBack { green: two() }, Effect::Kill { green: two() }]);
    bench.on(RolloutEvent::GreenExited { green: two(), how: "was killed by SIGKILL (9)".into() });
    assert_eq!(bench.reason(), "did not become ready in 30s");
    assert_eq!(bench.rollout.phase(), Phase::Serving);
    assert_eq!(bench.on(RolloutEvent::ReloadRequested), [Effect::Preflight { green: Generation::new(3) }]);
}

#[test]
fn green_can_ask_for_more_time() {
    let mut bench = Bench::starting();
    bench.on(RolloutEvent::GreenExtends { green: two(), by: Duration::from_secs(100) });
    assert_eq!(bench.after(Duration::from_secs(90)), []);
    assert_eq!(bench.after(Duration::from_secs(11)).len(), 2);
}

#[test]
fn what_belongs_to_another_attempt_changes_nothing() {
    let mut bench = Bench::starting();
    let green = Generation::new(9);
    for event in [
        RolloutEvent::GreenReady { green },
        RolloutEvent::GreenExited { green, how: "exited".into() },
        RolloutEvent::GreenFailed { green, reason: "no".into() },
        RolloutEvent::Verified { green, result: Ok(()) },
        RolloutEvent::CutOver { green, result: Ok(()) },
    ] {
        assert_eq!(bench.on(event), []);
        assert_eq!(bench.rollout.phase(), Phase::Starting);
    }
}

#[test]
fn green_dead_before_and_after_ready_is_told_apart() {
    let mut bench = Bench::starting();
    bench.on(RolloutEvent::GreenExited { green: two(), how: "exited with status 1".into() });
    assert_eq!(bench.reason(), "exited with status 1 before it was ready");

    let mut bench = Bench::starting();
    bench.on(RolloutEvent::GreenReady { green: two() });
    bench.on(RolloutEvent::GreenExited { green: two(), how: "was killed by SIGKILL (9)".into() });
    assert_eq!(bench.reason(), "was killed by SIGKILL (9) as soon as it was ready");
    assert!(bench.effects.contains(&Effect::SteerBack { green: two() }));
}

#[test]
fn green_dead_after_retire_is_said_and_nothing_is_taken_back() {
    let mut bench = Bench::retiring();
    let how = "exited".to_owned();
    let lost = bench.on(RolloutEvent::GreenExited { green: two(), how: how.clone() });
    assert_eq!(lost, [Effect::GreenLost { green: two(), how }]);
    assert_eq!(bench.rollout.phase(), Phase::Retiring);
}

#[test]
fn a_second_reload_is_refused_with_the_reason() {
    let mut bench = Bench::starting();
    let refused = bench.on(RolloutEvent::ReloadRequested);
    assert_eq!(refused, [Effect::Refuse { asked: UserRequest::Reload, reason: UNDER_WAY.into() }]);
}

#[test]
fn a_stop_in_a_rollout_gives_it_up_and_then_stops() {
    let mut bench = Bench::starting();
    assert_eq!(
        bench.on(RolloutEvent::StopRequested),
        [Effect::SteerBack { green: two() }, Effect::Kill { green: two() }]
    );
    let effects = bench.on(RolloutEvent::GreenExited { green: two(), how: "was killed".into() });
    assert_eq!(effects.last(), Some(&Effect::StopAccepting));
    assert_eq!(bench.reason(), "was given up: a stop was asked for");
    assert_eq!(bench.on(RolloutEvent::ReloadRequested).len(), 1, "refused");
}

#[test]
fn a_second_stop_is_at_once() {
    let mut bench = Bench::serving();
    bench.on(RolloutEvent::StopRequested);
    assert_eq!(bench.on(RolloutEvent::StopRequested), [Effect::ForceClose, Effect::Finish]);
    assert_eq!(bench.rollout.phase(), Phase::Gone);
}

#[test]
fn a_spawn_that_comes_back_too_late_is_killed() {
    let mut bench = Bench::serving();
    let green = two();
    bench.on(RolloutEvent::ReloadRequested);
    bench.on(RolloutEvent::PreflightDone { green, result: Ok(()) });
    bench.on(RolloutEvent::Gated { green, result: Ok(()) });
    assert_eq!(bench.after(STEP), [Effect::SteerBack { green: two() }]);
    assert_eq!(bench.rollout.phase(), Phase::RollingBack);
    assert_eq!(bench.on(RolloutEvent::Spawned { green, result: Ok(Pid::new(5)) }), [Effect::Kill { green }]);
    bench.on(RolloutEvent::GreenExited { green, how: "was killed".into() });
    assert!(bench.reason().contains("could not be started"));
}

#[test]
fn what_cannot_be_spawned_is_not_waited_for() {
    let green = two();
    let attempt = || {
        let mut bench = Bench::serving();
        bench.on(RolloutEvent::ReloadRequested);
        bench.on(RolloutEvent::PreflightDone { green, result: Ok(()) });
        bench.on(RolloutEvent::Gated { green, result: Ok(()) });
        bench
    };
    let mut bench = attempt();
    bench.on(RolloutEvent::Spawned { green, result: Err("Exec format error".into()) });
    assert_eq!((bench.rollout.phase(), bench.reason().as_str()), (Phase::Serving, "Exec format error"));

    // The exit is reported before the spawn: no host does so, and yet nothing may hang.
    let mut bench = attempt();
    bench.on(RolloutEvent::GreenExited { green, how: "exited with status 1".into() });
    assert_eq!(bench.rollout.phase(), Phase::Serving);
    bench.reason();
}

#[test]
fn the_drain_ends_by_the_hammer() {
    let mut bench = Bench::retiring();
    bench.on(RolloutEvent::ListenersClosed);
    assert_eq!(bench.after(plain().drain), [Effect::ForceClose]);
    assert_eq!(bench.after(FORCE_CLOSE_MAX), [Effect::Finish]);

    let mut bench = Bench::retiring();
    assert_eq!(bench.on(RolloutEvent::ForceCloseRequested), [], "the listeners first");
    assert_eq!(
        bench.on(RolloutEvent::ListenersClosed),
        [Effect::AwaitConnections(DrainScope::Own), Effect::ForceClose]
    );
}

#[test]
fn standby_becomes_live_once() {
    let mut rollout = Rollout::standby(two(), ME, plain());
    let now = Instant::now();
    assert_eq!(rollout.handle(RolloutEvent::Live, now), [Effect::BecomeLive]);
    assert_eq!(rollout.handle(RolloutEvent::Live, now), []);
    assert_eq!(rollout.handle(RolloutEvent::ReloadRequested, now), [Effect::Preflight { green: Generation::new(3) }]);
}

#[test]
fn a_reload_that_is_asked_for_a_moment_before_it_is_live_is_not_lost() {
    let mut rollout = Rollout::standby(two(), ME, plain());
    let now = Instant::now();
    assert_eq!(rollout.handle(RolloutEvent::ReloadRequested, now), []);
    assert_eq!(rollout.phase(), Phase::Standby);
    let green = Generation::new(3);
    assert_eq!(rollout.handle(RolloutEvent::Live, now), [Effect::BecomeLive, Effect::Preflight { green }]);
}

/// Otherwise the process would be left behind, and become live when no other generation is there.
#[test]
fn a_stop_at_once_waits_for_what_is_being_spawned() {
    let green = two();
    let spawning = || {
        let mut bench = Bench::serving();
        bench.on(RolloutEvent::ReloadRequested);
        bench.on(RolloutEvent::PreflightDone { green, result: Ok(()) });
        bench.on(RolloutEvent::Gated { green, result: Ok(()) });
        bench
    };
    let mut bench = spawning();
    assert_eq!(bench.on(RolloutEvent::StopRequested), [Effect::SteerBack { green: two() }]);
    assert_eq!(bench.on(RolloutEvent::StopRequested), []);
    let effects = bench.on(RolloutEvent::Spawned { green, result: Ok(Pid::new(5)) });
    assert_eq!((effects.first(), effects.last()), (Some(&Effect::Kill { green }), Some(&Effect::Finish)));
    assert_eq!(bench.reason(), "was given up: a stop was asked for");

    let mut bench = spawning();
    bench.on(RolloutEvent::StopRequested);
    bench.on(RolloutEvent::StopRequested);
    bench.on(RolloutEvent::Spawned { green, result: Err("no memory".into()) });
    assert_eq!(bench.rollout.phase(), Phase::Gone);

    // If the result never comes, the time limit ends the wait.
    let mut bench = spawning();
    bench.on(RolloutEvent::StopRequested);
    bench.on(RolloutEvent::StopRequested);
    assert_eq!(bench.after(KILL).last(), Some(&Effect::Finish));
}

#[test]
fn a_stop_waits_for_those_before_and_ends_them_with_itself() {
    let mut bench = Bench::serving();
    bench.on(RolloutEvent::StopRequested);
    assert_eq!(bench.on(RolloutEvent::ListenersClosed), [Effect::AwaitConnections(DrainScope::All)]);
    assert_eq!(bench.after(plain().drain), [Effect::ForceClose, Effect::ForceClosePredecessors]);
}

#[test]
fn a_stop_in_a_drain_closes_what_is_idle() {
    let mut bench = Bench::retiring();
    bench.on(RolloutEvent::ListenersClosed);
    assert_eq!(bench.on(RolloutEvent::StopRequested), [Effect::CloseIdle]);
    assert_eq!(bench.rollout.phase(), Phase::Draining);
}

#[test]
fn the_next_generation_is_live_as_soon_as_the_one_before_has_ended_ready_or_not() {
    for ready in [false, true] {
        let mut bench = Bench::starting();
        if ready {
            bench.on(RolloutEvent::GreenReady { green: two() });
        }
        let effects = bench.on(RolloutEvent::Died);
        assert!(matches!(effects[..], [Effect::HandOver { .. }, Effect::Report { .. }, Effect::Retire]), "{effects:?}");
        assert_eq!(bench.rollout.successor(), Some(two()));
    }
}

#[test]
fn a_generation_that_ends_by_itself_is_gone_and_a_rollout_without_a_process_with_it() {
    assert_eq!(Bench::serving().on(RolloutEvent::Died), [Effect::Finish]);
    let mut bench = Bench::serving();
    bench.on(RolloutEvent::ReloadRequested);
    let effects = bench.on(RolloutEvent::Died);
    assert!(matches!(effects[..], [Effect::Report { serves_on: false, .. }, Effect::Finish]), "{effects:?}");
    assert_eq!(bench.rollout.phase(), Phase::Gone);
}
