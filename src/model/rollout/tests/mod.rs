//! The machine in virtual time: its state changes one by one, and a random walk that looks for a broken promise.

mod blue_green;
mod edges;
mod launch;
mod walk;

use std::time::Duration;

use super::*;
use crate::model::event::{Outcome, Phase};
use crate::model::share::Share;

const ONE: Generation = Generation::FIRST;
const ME: Pid = Pid::new(11);
const SECOND: Duration = Duration::from_secs(1);

fn plain() -> Plan {
    Plan {
        ready: SECOND * 30,
        linger: SECOND * 5,
        drain: SECOND * 60,
        probe: None,
        canary: vec![],
        soak: Duration::ZERO,
    }
}

/// A plan with every optional step.
fn full() -> Plan {
    let step = |percent| CanaryStep { share: percent_of(percent), time: SECOND * 30 };
    Plan { probe: Some(SECOND * 5), canary: vec![step(5.0), step(50.0)], soak: SECOND * 10, ..plain() }
}

fn percent_of(percent: f64) -> Share {
    Share::try_from(percent).expect("a share")
}

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
        Bench::planned(plain())
    }

    fn planned(plan: Plan) -> Bench {
        Bench { rollout: Rollout::serving(ONE, ME, plan), now: Instant::now(), effects: vec![] }
    }

    fn on(&mut self, event: RolloutEvent) -> Vec<Effect> {
        self.now += Duration::from_millis(1);
        let effects = self.rollout.handle(event, self.now);
        self.effects.extend(effects.clone());
        effects
    }

    fn after(&mut self, time: Duration) -> Vec<Effect> {
        self.now += time;
        let effects = self.rollout.handle_timeout(self.now);
        self.effects.extend(effects.clone());
        effects
    }

    /// Goes on, with success, until the machine waits for green.
    fn starting() -> Bench {
        Bench::serving().start()
    }

    fn start(mut self) -> Bench {
        let bench = &mut self;
        let green = two();
        bench.on(RolloutEvent::ReloadRequested);
        bench.on(RolloutEvent::PreflightDone { green, result: Ok(()) });
        bench.on(RolloutEvent::Gated { green, result: Ok(()) });
        bench.on(RolloutEvent::Spawned { green, result: Ok(Pid::new(77)) });
        assert_eq!(bench.rollout.phase(), Phase::Starting);
        self
    }

    /// The whole plan, up to this phase.
    fn up_to(phase: Phase) -> Bench {
        let mut bench = Bench::planned(full()).start();
        let green = two();
        bench.on(RolloutEvent::GreenReady { green });
        bench.on(RolloutEvent::Verified { green, result: Ok(()) });
        if phase == Phase::Probing {
            return bench;
        }
        bench.on(RolloutEvent::Probed { green, result: Ok(()) });
        bench.on(RolloutEvent::Shared { green, result: Ok(()) });
        if phase == Phase::Canary {
            return bench;
        }
        bench.on(RolloutEvent::PromoteRequested);
        bench.on(RolloutEvent::CutOver { green, result: Ok(()) });
        assert_eq!((bench.rollout.phase(), phase), (Phase::Soaking, Phase::Soaking));
        bench
    }

    fn retiring() -> Bench {
        let mut bench = Bench::starting();
        let green = two();
        bench.on(RolloutEvent::GreenReady { green });
        bench.on(RolloutEvent::Verified { green, result: Ok(()) });
        bench.on(RolloutEvent::CutOver { green, result: Ok(()) });
        assert_eq!(bench.rollout.phase(), Phase::Retiring);
        bench
    }

    fn reason(&self) -> String {
        let reasons: Vec<_> = self.effects.iter().filter_map(rolled_back).collect();
        assert_eq!(reasons.len(), 1, "{:?}", self.effects);
        reasons[0].clone()
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Failure {
        Failure::Step(text.to_owned())
    }
}

fn rolled_back(effect: &Effect) -> Option<&String> {
    match effect {
        Effect::Report { outcome: Outcome::RolledBack { reason, .. }, .. } => Some(reason),
        _ => None,
    }
}
