//! A random walk through the machine, with a world that knows which states are forbidden.

use proptest::prelude::*;

use super::*;

/// A world that performs the effects at random, and knows which states are forbidden.
struct World {
    rollout: Rollout,
    now: Instant,
    pending: Vec<RolloutEvent>,
    begun: usize,
    outcomes: usize,
    steered_to_green: bool,
    verified: bool,
    retired: bool,
    stopping: bool,
    /// The process of this generation is gone.
    died: bool,
    /// Users may be on green.
    met: bool,
    /// The generation before has released this one.
    taken_back: bool,
}

impl World {
    fn new(standby: bool, plan: Plan) -> World {
        let rollout = if standby { Rollout::standby(ONE, ME, plan) } else { Rollout::serving(ONE, ME, plan) };
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
            died: false,
            met: false,
            taken_back: false,
        }
    }

    fn perform(&mut self, effects: Vec<Effect>, good: bool) {
        let result = if good { Ok(()) } else { Err(Failure::from("by chance")) };
        for effect in effects {
            match effect {
                Effect::Preflight { green } => {
                    self.begun += 1;
                    self.pending.push(RolloutEvent::PreflightDone { green, result: result.clone() });
                }
                Effect::Gate { green } => self.pending.push(RolloutEvent::Gated { green, result: result.clone() }),
                Effect::Spawn { green } => {
                    (self.verified, self.met) = (false, false);
                    let result = result.clone().map(|()| Pid::new(100 + green.number()));
                    self.pending.push(RolloutEvent::Spawned { green, result });
                    self.pending.push(RolloutEvent::GreenReady { green });
                }
                Effect::Verify { green } => {
                    self.verified = good;
                    self.pending.push(RolloutEvent::Verified { green, result: result.clone() });
                }
                Effect::Probe { green, .. } => {
                    assert!(self.verified, "probed before it was seen to listen");
                    self.pending.push(RolloutEvent::Probed { green, result: result.clone() });
                }
                Effect::Share { green, .. } => {
                    assert!(self.verified, "steered to a green that nobody has looked at");
                    self.met = true;
                    self.pending.push(RolloutEvent::Shared { green, result: result.clone() });
                }
                Effect::CutOver { green, .. } => {
                    assert!(self.verified, "steered to a green that nobody has looked at");
                    (self.steered_to_green, self.met) = (good, true);
                    self.pending.push(RolloutEvent::CutOver { green, result: result.clone() });
                }
                Effect::SteerBack { green } => {
                    assert!(!self.retired, "rolled back after retire");
                    self.steered_to_green = false;
                    self.pending.push(RolloutEvent::SteeredBack { green });
                }
                Effect::Release { .. } => {
                    assert!(!self.retired && !self.steered_to_green, "sent away while users are steered to it");
                    self.met = false;
                }
                Effect::Kill { green } => {
                    assert!(!self.retired, "killed after retire");
                    assert!(!self.met || self.stopping, "killed while it has users");
                    self.pending.push(RolloutEvent::GreenExited { green, how: "was killed".into() });
                }
                Effect::Retire => {
                    let goes = self.taken_back || self.died;
                    assert!(goes || self.steered_to_green && self.verified, "nobody accepts");
                    self.retired = true;
                    self.pending.push(RolloutEvent::ListenersClosed);
                }
                Effect::StopAccepting => {
                    assert!(self.stopping, "closed the listeners, and nobody had asked for it");
                    self.pending.push(RolloutEvent::ListenersClosed);
                }
                Effect::AwaitConnections(_) => self.pending.push(RolloutEvent::ConnectionsGone),
                Effect::Report { outcome, serves_on } => {
                    self.outcomes += 1;
                    assert!(!self.retired);
                    assert_eq!(
                        serves_on,
                        matches!(outcome, Outcome::RolledBack { .. }) && !self.stopping && !self.died
                    );
                }
                Effect::LaunchFailed { reason } => panic!("this is no launch: {reason}"),
                Effect::HandOver { .. } => {
                    assert!(self.steered_to_green || self.died, "handed over before it was steered to")
                }
                Effect::CloseNow
                | Effect::CloseIdle
                | Effect::Canary { .. }
                | Effect::Soak { .. }
                | Effect::ForceClose
                | Effect::ForceClosePredecessors
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
            0 => RolloutEvent::ReloadRequested,
            1 => RolloutEvent::ForceCloseRequested,
            2 if which == 0 => {
                self.stopping = true;
                RolloutEvent::StopRequested
            }
            3 => RolloutEvent::Live,
            4 => RolloutEvent::GreenExited { green, how: "died".into() },
            5 => RolloutEvent::GreenFailed { green, reason: "says no".into() },
            6 => RolloutEvent::GreenExtends { green, by: Duration::from_secs(which.into()) },
            7 => return self.time_out(good),
            8 if which < 32 => RolloutEvent::PromoteRequested,
            9 if which < 16 => RolloutEvent::RollbackRequested,
            10 if which < 4 => {
                self.taken_back |= self.rollout.phase() == Phase::Standby;
                RolloutEvent::TakenBack { by: green }
            }
            11 if which < 4 => {
                self.died = true;
                RolloutEvent::Died
            }
            _ if self.pending.is_empty() => return,
            _ => self.pending.remove(usize::from(which) % self.pending.len()),
        };
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
    fn no_walk_breaks_a_promise(
        standby: bool, whole: bool, steps in proptest::collection::vec((0_u8..24, any::<u8>(), any::<bool>()), 1..300)
    ) {
        let mut world = World::new(standby, if whole { full() } else { plain() });
        for step in steps {
            world.step(step);
        }
        // From any state, time alone brings the machine to rest.
        for _ in 0..16 {
            world.time_out(false);
        }
        prop_assert!(matches!(world.rollout.phase(), Phase::Standby | Phase::Serving | Phase::Gone), "{:?}", world.rollout);
        prop_assert_eq!(world.begun, world.outcomes, "each reload has exactly one outcome");
    }
}
