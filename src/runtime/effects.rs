//! Performs the effects of a machine, as far as all hosts do the same.

use std::time::Duration;

use super::groups::{Groups, SteeringError, Table};
use super::host::Host;
use super::offload::Stalled;
use crate::model::event::{Event, Outcome};
use crate::model::identity::Generation;
use crate::model::rollout::{Effect, Failure, Revocability, RolloutEvent, UserRequest};
use crate::model::share::Share;

/// Interval between two looks at whether a generation that was told to stop still listens: there is no event for the
/// end of a listener.
const LOOK: Duration = Duration::from_millis(5);

/// Performs one effect: at once, or in the background with the result as an event.
pub(crate) fn perform<H: Host>(host: &mut H, effect: Effect) {
    match effect {
        Effect::Preflight { green } => preflight(host, green),
        Effect::Gate { green } => gate(host, green),
        Effect::Spawn { green } => host.spawn(green),
        Effect::Verify { green } => verify(host, green),
        Effect::Probe { green, after } => probe(host, green, after),
        Effect::Share { green, share } => steer_share(host, green, share),
        Effect::CutOver { green, turn } => cut_over(host, green, turn),
        Effect::SteerBack { green } => steer_back(host, green),
        Effect::Kill { green } => host.kill(green),
        Effect::Release { green } => host.release(green),
        Effect::HandOver { green, took } => {
            host.context_mut().end_probing();
            host.end_following();
            host.hand_over(green, took);
        }
        Effect::Report { outcome, serves_on } => report(host, outcome, serves_on),
        Effect::Retire => host.retire(),
        Effect::StopAccepting => host.stop_accepting(),
        Effect::CloseNow => {
            host.context().close_now.send_replace(true);
        }
        Effect::AwaitConnections(whose) => host.await_connections(whose),
        Effect::CloseIdle => host.close_idle(),
        Effect::ForceClose => host.force_close(),
        Effect::ForceClosePredecessors => host.force_close_predecessors(),
        Effect::BecomeLive => host.become_live(),
        Effect::LaunchFailed { reason } => host.launch_failed(reason),
        Effect::GreenLost { green, how } => host.green_lost(green, &how),
        Effect::Canary { green, share, time } => {
            tracing::info!(generation = %green, %share, ?time, "canary: a share of new connections goes to the next generation");
            host.context().tell(Event::Canary { share, time });
        }
        Effect::Soak { time } => {
            tracing::info!(generation = %host.context().generation, ?time, "soaking: all new connections can still be taken back");
            host.context().tell(Event::Soak { time });
        }
        Effect::Refuse { asked, reason } => refuse(host, asked, reason),
        // The driver ends.
        Effect::Finish => {}
    }
}

fn preflight<H: Host>(host: &mut H, green: Generation) {
    host.tell_reloading();
    tracing::info!(generation = %host.context().generation, green = %green, "reloading");
    let checked = host.preflight();
    let context = host.context_mut();
    context.checking =
        Some(context.in_background(async move { RolloutEvent::PreflightDone { green, result: checked.await } }));
}

/// Waits until no generation that was told to stop listens any more, and this generation knows its listeners, and then
/// steers every group to this generation.
fn gate<H: Host>(host: &H, green: Generation) {
    let (context, before_gate) = (host.context(), host.before_gate());
    let (groups, needs_steering) = (context.groups.clone(), context.needs_steering);
    groups.post(move |table| table.begin(green));
    context.in_background(async move {
        let looked = match have_left(&groups).await {
            Ok(()) => before_gate.await,
            Err(stalled) => Err(stalled),
        };
        let result = match looked {
            Ok(()) => groups.try_run(move |table| gated(table, green, needs_steering)).await,
            Err(stalled) => Err(SteeringError::LiveLook(stalled)),
        };
        RolloutEvent::Gated { green, result: result.map_err(Failure::from) }
    });
}

async fn have_left(groups: &Groups) -> Result<(), Stalled> {
    while !groups.run(Table::have_left).await? {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// # Errors
/// If the rollout is over. If the rollout needs steering, the error may also name the group that cannot be steered.
fn gated(table: &mut Table, green: Generation, needs_steering: bool) -> Result<(), SteeringError> {
    table.gate(green)?;
    // The groups that cannot be steered were logged. A plain reload continues, and leaves these groups to the kernel.
    match needs_steering {
        true => table.all_steered().map_err(|why| SteeringError::Needed(Box::new(why))),
        false => Ok(()),
    }
}

fn verify<H: Host>(host: &H, green: Generation) {
    let (context, look) = (host.context(), host.look(green));
    let groups = context.groups.clone();
    context.in_background(async move {
        let result = match look {
            Some(look) => {
                let told = look.told.await;
                let verify =
                    move |table: &mut Table, shown: &_, holders| table.verify(green, shown, holders, told.as_deref());
                let looked = groups.look(&look.lane, look.holders, verify).await;
                looked.unwrap_or_else(|stalled| Err(SteeringError::Look(stalled))).map_err(Failure::from)
            }
            None => Err(Failure::Gone),
        };
        RolloutEvent::Verified { green, result }
    });
}

fn probe<H: Host>(host: &mut H, green: Generation, after: Duration) {
    let probe = host.probe();
    let context = host.context_mut();
    let Some(probe) = probe else { return context.send(RolloutEvent::Probed { green, result: Ok(()) }) };
    let groups = context.groups.clone();
    context.probing = Some(context.in_background(async move {
        // The model's pause between two probes, so that probes cause no load.
        tokio::time::sleep(after).await;
        let steer = |address, source| groups.try_run(move |table| table.probe(green, address, source));
        RolloutEvent::Probed { green, result: probe.ask(steer).await.map_err(Failure::from) }
    }));
}

fn steer_share<H: Host>(host: &H, green: Generation, share: Share) {
    let (context, follow) = (host.context(), host.follow(green));
    let groups = context.groups.clone();
    context.in_background(async move {
        let result = match follow.await {
            Ok(()) => groups.try_run(move |table| table.share(green, share)).await,
            Err(stalled) => Err(SteeringError::Look(stalled)),
        };
        RolloutEvent::Shared { green, result: result.map_err(Failure::from) }
    });
}

fn cut_over<H: Host>(host: &H, green: Generation, turn: Revocability) {
    let (context, follow) = (host.context(), host.follow(green));
    let groups = context.groups.clone();
    context.in_background(async move {
        let moved = match follow.await {
            Ok(()) => groups.try_run(move |table| table.cut_over(green, turn)).await,
            Err(stalled) => Err(SteeringError::Look(stalled)),
        };
        let result = moved.map(|tier| {
            tracing::info!(generation = %green, %tier, "new connections go to the next generation");
        });
        RolloutEvent::CutOver { green, result: result.map_err(Failure::from) }
    });
}

fn steer_back<H: Host>(host: &mut H, green: Generation) {
    host.context_mut().end_probing();
    host.end_following();
    let context = host.context();
    let steered = context.groups.run(Table::steer_back);
    context.in_background(async move {
        // A panic was logged, and leaves the groups as they were.
        let _ = steered.await;
        RolloutEvent::SteeredBack { green }
    });
}

/// Logs how a reload has ended, and cleans up after one that was rolled back.
fn report<H: Host>(host: &mut H, outcome: Outcome, serves_on: bool) {
    let me = host.context().generation;
    match &outcome {
        Outcome::Done { generation, pid, took } => {
            tracing::info!(%generation, %pid, ?took, "reload done: generation {generation} is live, generation {me} retires");
        }
        Outcome::RolledBack { generation, reason, took } => {
            let me_too = if serves_on { "serves on" } else { "stops" };
            tracing::error!(%generation, ?took, "reload failed: generation {generation} {reason}; generation {me} {me_too}");
            let context = host.context_mut();
            context.groups.post(Table::green_is_gone);
            context.end_checking();
            context.failed = Some(format!("generation {generation} failed: {reason}"));
            host.forget_green();
            host.record(outcome.clone());
            if serves_on {
                host.tell_ready();
            }
        }
    }
    host.context().tell(Event::Reload(outcome));
}

/// Logs a request that came at the wrong time, and tells the subscribers of it.
fn refuse<H: Host>(host: &H, asked: UserRequest, reason: String) {
    let what = match asked {
        UserRequest::Reload => "reload",
        UserRequest::Promotion => "promotion",
        UserRequest::Rollback => "rollback",
    };
    let context = host.context();
    tracing::warn!(generation = %context.generation, reason, "{what} refused");
    context.tell(Event::Refused(reason));
}
