//! The machine of one generation: it runs from the moment at which the generation is live, or was sent away, to its end.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::SupervisedHost;
use crate::model::identity::Generation;
use crate::model::rollout::{Rollout, RolloutEvent};
use crate::runtime::driver::Driver;
use crate::runtime::input::{Input, QUEUE};
use crate::supervisor::child::Child;
use crate::supervisor::instance::{Instance, Live};

/// Makes this generation the live one, and runs its machine.
pub(in crate::supervisor) fn enter(instance: &Arc<Instance>, child: Arc<Child>) {
    let rollout = Rollout::serving(child.generation, child.pid, instance.settings.plan.clone());
    let (inputs, driver) = driver(instance, child.clone(), rollout);
    instance.set_live(Live { child, inputs }, driver.host.endpoint());
    let instance = instance.clone();
    tokio::spawn(async move {
        let child = driver.host.child.clone();
        driver.run().await;
        // Not if another generation has the leadership by now.
        if instance.is_live(child.generation) {
            let code = child.has_ended().map_or(0, |ended| ended.code());
            instance.over.send_replace(Some(code));
        }
    });
}

/// Starts the machine of a green that has served users and was sent away; the machine manages its end.
pub(super) async fn send_away(instance: &Arc<Instance>, child: Arc<Child>, by: Generation) {
    let rollout = Rollout::standby(child.generation, child.pid, instance.settings.plan.clone());
    let (inputs, driver) = driver(instance, child.clone(), rollout);
    let gone = driver.host.gone();
    tokio::spawn(driver.run());
    let _ = inputs.send(Input::Rollout(RolloutEvent::TakenBack { by })).await;
    instance.leaves(child, inputs, gone).await;
}

fn driver(
    instance: &Arc<Instance>,
    child: Arc<Child>,
    rollout: Rollout,
) -> (mpsc::Sender<Input>, Driver<SupervisedHost>) {
    let (inputs, received) = mpsc::channel(QUEUE);
    let (spawned, arriving) = mpsc::channel(QUEUE);
    let host = SupervisedHost::new(instance.clone(), child, inputs.clone(), spawned);
    (inputs, Driver { rollout, host, inputs: received, host_events: arriving })
}
