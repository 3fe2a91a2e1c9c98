//! The steps of a rollout that are the same for every host: the steps that act on the groups.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::groups::Groups;
use super::groups::lock;
use super::offload::{self, Stalled};
use super::probe;
use crate::model::event::{Event, Outcome};
use crate::model::identity::Generation;
use crate::model::probe::Target;
use crate::model::rollout::{Effect, Revocability, UserRequest};
use crate::model::share::Share;

/// Interval between two looks at whether a generation that was told to stop still listens: there is no event for the
/// end of a listener.
const LOOK: Duration = Duration::from_millis(5);

/// How green is probed.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    pub(crate) target: Target,
    pub(crate) timeout: Duration,
    /// The addresses that are probed, one after the other.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Probe {
    /// Probes green on each address.
    ///
    /// # Errors
    /// Names the address that did not pass, and why.
    pub(crate) async fn ask(&self, groups: &Arc<Mutex<Groups>>, green: Generation) -> Result<(), String> {
        for &address in &self.addresses {
            let steer = |source| lock(groups).probe(green, address, source);
            probe::pass(&self.target, address, self.timeout, steer).await?;
        }
        Ok(())
    }
}

/// Waits until no generation that was told to stop listens any more, waits for `look`, and then steers every group to
/// the live generation. The rollout was begun by [`Groups::begin`] before.
///
/// # Errors
/// If `look` fails, or the rollout is over by then. If the rollout needs steering, the error may also name the group
/// that cannot be steered.
pub(crate) async fn gate(
    groups: Arc<Mutex<Groups>>,
    green: Generation,
    needs_steering: bool,
    look: impl Future<Output = Result<(), Stalled>> + Send,
) -> Result<(), String> {
    let left = |groups: Arc<Mutex<Groups>>| offload::run(move || lock(&groups).have_left());
    while !left(groups.clone()).await.unwrap_or(true) {
        tokio::time::sleep(LOOK).await;
    }
    let not_looked = |stalled| format!("was not started, for the live processes cannot be looked at: {stalled}");
    look.await.map_err(not_looked)?;
    let gated = offload::run(move || {
        let mut groups = lock(&groups);
        groups.gate(green)?;
        // The groups that cannot be steered were logged. A plain reload continues, and leaves these groups to the
        // kernel.
        if !needs_steering {
            return Ok(());
        }
        groups
            .all_steered()
            .map_err(|why| format!("was not started, for its probe, canary or soak need steering: {why}"))
    });
    gated.await.unwrap_or_else(|stalled| Err(format!("was not started, for it cannot be steered: {stalled}")))
}

/// Waits for `look`, and then steers a share of the new connections to green.
///
/// # Errors
/// If `look` fails; and see [`Groups::share`].
pub(crate) async fn share(
    groups: Arc<Mutex<Groups>>,
    green: Generation,
    share: Share,
    look: impl Future<Output = Result<(), Stalled>> + Send,
) -> Result<(), String> {
    look.await.map_err(|stalled| stalled.to_string())?;
    let shared = offload::run(move || lock(&groups).share(green, share));
    shared.await.unwrap_or_else(|stalled| Err(stalled.to_string()))
}

/// Waits for `look`, and then steers all new connections to green.
///
/// # Errors
/// If `look` fails; and see [`Groups::cut_over`].
pub(crate) async fn cut_over(
    groups: Arc<Mutex<Groups>>,
    green: Generation,
    turn: Revocability,
    look: impl Future<Output = Result<(), Stalled>> + Send,
) -> Result<(), String> {
    look.await.map_err(|stalled| stalled.to_string())?;
    let moved = offload::run(move || lock(&groups).cut_over(green, turn));
    let tier = moved.await.unwrap_or_else(|stalled| Err(stalled.to_string()))?;
    tracing::info!(generation = %green, %tier, "new connections go to the next generation");
    Ok(())
}

/// The event that subscribers get for an effect, which is logged too; `None` for effects without an event. Called only
/// when the machine has taken the step, so that a client that asks for the status after the event does not get the step
/// before.
pub(crate) fn told(generation: Generation, effect: &Effect) -> Option<Event> {
    match effect {
        Effect::Canary { green, share, time } => {
            tracing::info!(generation = %green, %share, ?time, "canary: a share of new connections goes to the next generation");
            Some(Event::Canary { share: *share, time: *time })
        }
        Effect::Soak { time } => {
            tracing::info!(%generation, ?time, "soaking: all of it can still be taken back");
            Some(Event::Soak { time: *time })
        }
        Effect::Refuse { asked, reason } => {
            let what = match asked {
                UserRequest::Reload => "reload",
                UserRequest::Promotion => "promotion",
                UserRequest::Rollback => "rollback",
            };
            tracing::warn!(%generation, reason, "{what} refused");
            Some(Event::Refused(reason.clone()))
        }
        _ => None,
    }
}

/// Logs how a reload has ended.
pub(crate) fn end(me: Generation, outcome: &Outcome, serves_on: bool) {
    match outcome {
        Outcome::Done { generation, pid, took } => {
            tracing::info!(%generation, %pid, ?took, "reload done: generation {generation} is live, generation {me} retires");
        }
        Outcome::RolledBack { generation, reason, took } => {
            let me_too = if serves_on { "serves on" } else { "stops" };
            tracing::error!(%generation, ?took, "reload failed: generation {generation} {reason}; generation {me} {me_too}");
        }
    }
}

/// The time, in seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
