//! The status of an instance, as `cutover status --json` prints it.

use std::time::{Duration, Instant};

use cutover::Phase;
use cutover::control::Status;

use super::process::Instance;
use super::verb::Verb;

const SOON: Duration = Duration::from_secs(10);

/// The status that `cutover status --json` prints.
#[track_caller]
pub fn status(server: &Instance) -> Status {
    let ended = Verb::of("status", server).args(["--json"]).run().with(0);
    assert_eq!((ended.err.as_str(), ended.out.lines().count()), ("", 1), "{ended:?}");
    serde_json::from_str(&ended.out).expect("a status")
}

/// Asserts that this generation is live and that no rollout is under way. Returns the pid of the generation.
#[track_caller]
pub fn is_serving(status: &Status, generation: u64) -> u32 {
    let live = status.generations.iter().find(|live| live.phase == Phase::Serving);
    let live = live.unwrap_or_else(|| panic!("nobody serves: {status:#?}"));
    let number = u64::from(live.generation.number());
    assert_eq!((number, live.share.as_percent(), &status.rollout), (generation, 100.0, &None), "{status:#?}");
    live.pid.number()
}

/// Polls the status until the condition holds, and returns that status.
#[track_caller]
pub fn wait_status(server: &Instance, what: &str, is_it: impl Fn(&Status) -> bool) -> Status {
    let deadline = Instant::now() + SOON;
    loop {
        let status = status(server);
        if is_it(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "not {what} in {SOON:?}: {status:#?}");
    }
}

#[track_caller]
pub fn wait_phase(server: &Instance, phase: Phase) -> Status {
    wait_status(server, &phase.to_string(), |status| status.rollout.as_ref().is_some_and(|r| r.phase == phase))
}
