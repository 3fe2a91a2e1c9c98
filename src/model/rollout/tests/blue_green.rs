//! Probe, canary and soak: the steps by which a rollout is blue-green and not just a restart.

use super::*;
use crate::model::rollout::plan::{KILL, PROBE_PAUSE};

fn pause() -> Effect {
    Effect::Probe { green: two(), after: PROBE_PAUSE }
}

#[test]
fn the_whole_plan_goes_step_by_step() {
    let mut bench = Bench::planned(full()).start();
    let green = two();
    bench.on(RolloutEvent::GreenReady { green });
    let effects = bench.on(RolloutEvent::Verified { green, result: Ok(()) });
    assert_eq!(effects, [Effect::Probe { green, after: Duration::ZERO }], "no user before the probe");
    let effects = bench.on(RolloutEvent::Probed { green, result: Ok(()) });
    assert_eq!(effects, [Effect::Share { green, share: percent_of(5.0) }]);
    let canary = |percent| Effect::Canary { green, share: percent_of(percent), time: SECOND * 30 };
    assert_eq!(
        bench.on(RolloutEvent::Shared { green, result: Ok(()) }),
        [canary(5.0), pause()],
        "and it is probed again and again"
    );
    assert_eq!(bench.on(RolloutEvent::Probed { green, result: Ok(()) }), [pause()]);
    assert_eq!(bench.after(SECOND * 29), []);
    assert_eq!(bench.after(SECOND), [Effect::Share { green, share: percent_of(50.0) }]);
    assert_eq!(
        bench.on(RolloutEvent::Shared { green, result: Ok(()) }),
        [canary(50.0)],
        "one probe is under way already"
    );
    assert_eq!(bench.after(SECOND * 30), [Effect::CutOver { green, turn: Revocability::Revocable }]);
    assert_eq!(bench.on(RolloutEvent::CutOver { green, result: Ok(()) }), [Effect::Soak { time: SECOND * 10 }]);
    assert_eq!(bench.rollout.phase(), Phase::Soaking);
    assert_eq!(bench.on(RolloutEvent::Probed { green, result: Ok(()) }), [pause()], "in the soak too");
    let effects = bench.after(SECOND * 10);
    assert!(matches!(effects.first(), Some(Effect::HandOver { .. })), "only now");
    assert_eq!(effects.last(), Some(&Effect::Retire));
    assert_eq!(bench.on(RolloutEvent::Probed { green, result: Err("late".into()) }), []);
}

#[test]
fn before_users_meet_it_a_failure_kills_green_and_after_that_it_is_let_finish() {
    for (phase, word) in [(Phase::Probing, "while it was probed"), (Phase::Canary, "canary"), (Phase::Soaking, "soak")]
    {
        let (green, users) = (two(), phase != Phase::Probing);
        let failed = RolloutEvent::Probed { green, result: Err("answered 503".into()) };
        for event in [failed, RolloutEvent::RollbackRequested] {
            let mut bench = Bench::up_to(phase);
            let effects = bench.on(event);
            assert_eq!(effects[0], Effect::SteerBack { green: two() });
            assert_eq!(effects[1], if users { Effect::Release { green } } else { Effect::Kill { green } });
            let (exited, steered) =
                (RolloutEvent::GreenExited { green, how: "has finished".into() }, RolloutEvent::SteeredBack { green });
            let (other, last) = if users { (exited, steered) } else { (steered, exited) };
            assert_eq!((bench.on(other), bench.rollout.phase()), (vec![], Phase::RollingBack));
            bench.on(last);
            assert_eq!(bench.rollout.phase(), Phase::Serving);
        }
        let mut bench = Bench::up_to(phase);
        let effects = bench.on(RolloutEvent::GreenExited { green, how: "was killed by SIGKILL (9)".into() });
        assert_eq!(effects[0], Effect::SteerBack { green: two() }, "at once");
        bench.on(RolloutEvent::SteeredBack { green });
        assert!(bench.reason().contains(word), "{}", bench.reason());
        assert_eq!(bench.rollout.phase(), Phase::Serving);
    }
}

/// Operations on the groups that take long do not keep the reload without an outcome.
#[test]
fn a_kernel_that_is_not_told_in_time_ends_the_rollback_as_well() {
    let mut bench = Bench::up_to(Phase::Canary);
    bench.on(RolloutEvent::RollbackRequested);
    assert_eq!(bench.after(Duration::from_secs(1)), []);
    bench.after(KILL);
    assert_eq!((bench.rollout.phase(), bench.reason().as_str()), (Phase::Serving, "was rolled back on request"));
}

#[test]
fn a_share_that_cannot_be_had_is_a_failure() {
    let mut bench = Bench::up_to(Phase::Probing);
    let green = two();
    bench.on(RolloutEvent::Probed { green, result: Ok(()) });
    bench.on(RolloutEvent::Shared { green, result: Err("127.0.0.1:80 is not steered".into()) });
    bench.on(RolloutEvent::SteeredBack { green });
    assert_eq!(bench.reason(), "127.0.0.1:80 is not steered");
}

#[test]
fn a_promotion_jumps_ahead_and_is_refused_where_there_is_nothing_ahead() {
    let green = two();
    let mut bench = Bench::up_to(Phase::Canary);
    assert_eq!(bench.on(RolloutEvent::PromoteRequested), [Effect::CutOver { green, turn: Revocability::Revocable }]);
    assert_eq!(bench.on(RolloutEvent::PromoteRequested), [], "it is on its way");
    let mut bench = Bench::up_to(Phase::Soaking);
    assert_eq!(bench.on(RolloutEvent::PromoteRequested).last(), Some(&Effect::Retire));

    let refusals = [
        (Bench::serving(), "no rollout is under way: generation 1 (pid 11) serves"),
        (Bench::up_to(Phase::Probing), "the rollout of generation 2 is probing: only a canary or a soak"),
        (Bench::retiring(), "generation 1 (pid 11) retires, and generation 2 is live"),
    ];
    for (mut bench, words) in refusals {
        let effects = bench.on(RolloutEvent::PromoteRequested);
        let [Effect::Refuse { asked: UserRequest::Promotion, reason }] = &effects[..] else { panic!("{effects:?}") };
        assert!(reason.contains(words), "{reason}");
    }
}

#[test]
fn after_the_point_of_no_return_nothing_is_rolled_back() {
    let mut bench = Bench::retiring();
    let effects = bench.on(RolloutEvent::RollbackRequested);
    assert!(matches!(&effects[..], [Effect::Refuse { asked: UserRequest::Rollback, .. }]), "{effects:?}");
}

#[test]
fn a_stop_in_a_canary_lets_green_finish_as_well() {
    let mut bench = Bench::up_to(Phase::Canary);
    let effects = bench.on(RolloutEvent::StopRequested);
    assert_eq!(effects, [Effect::SteerBack { green: two() }, Effect::Release { green: two() }]);
    let effects = bench.on(RolloutEvent::SteeredBack { green: two() });
    assert_eq!(effects.last(), Some(&Effect::StopAccepting));
    assert_eq!(bench.on(RolloutEvent::ListenersClosed), [Effect::AwaitConnections(DrainScope::All)]);
}

#[test]
fn a_standby_that_is_sent_away_finishes_what_it_has() {
    let mut rollout = Rollout::standby(two(), ME, plain());
    let now = Instant::now();
    assert_eq!(rollout.handle(RolloutEvent::TakenBack { by: ONE }, now), [Effect::Retire]);
    assert_eq!(rollout.handle(RolloutEvent::Live, now), [], "the end of blue does not bring it back");
    assert_eq!(rollout.handle(RolloutEvent::ListenersClosed, now), [Effect::AwaitConnections(DrainScope::Own)]);
    assert_eq!(rollout.handle(RolloutEvent::ConnectionsGone, now), [Effect::Finish]);
}

#[test]
fn the_status_tells_the_share_and_the_rest_of_the_step() {
    let mut bench = Bench::up_to(Phase::Canary);
    let at = bench.now + SECOND * 12;
    let status = bench.rollout.status(at).expect("a rollout");
    assert_eq!((status.generation, status.share, status.left), (two(), percent_of(5.0), Some(SECOND * 18)));
    assert_eq!(bench.rollout.own_share(), percent_of(95.0));
    bench.on(RolloutEvent::RollbackRequested);
    assert_eq!(bench.rollout.own_share(), Share::ALL);
    bench.on(RolloutEvent::SteeredBack { green: two() });
    assert_eq!(bench.rollout.status(at), None);
    assert_eq!(bench.rollout.own_share(), Share::ALL);
    assert_eq!(Bench::up_to(Phase::Soaking).rollout.own_share(), Share::NONE);
}
