//! The listeners of the generations in the groups: programs open and close them at times of their own.

use std::sync::Arc;

use crate::model::identity::Generation;
use crate::runtime::groups::Table;
use crate::runtime::offload::{LOOK_MAX, Stalled};
use crate::supervisor::child::Child;
use crate::supervisor::instance::Instance;

/// Updates the groups with the current listeners of the live generation.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
pub(super) async fn see(instance: &Instance, live: Arc<Child>) -> Result<(), Stalled> {
    let holders = instance.looks.run_within(LOOK_MAX, move || live.holders()).await?;
    instance.groups.run(move |table| table.see(holders.as_ref())).await
}

/// Updates the groups with the listeners of either generation that have come or gone in the rollout of `generation`.
#[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
pub(super) async fn follow(
    instance: Arc<Instance>,
    generation: Generation,
    blue: Arc<Child>,
    green: Option<Arc<Child>>,
) -> Result<(), Stalled> {
    let groups = &instance.groups;
    if !groups.run(|table| table.have_changed()).await? {
        return Ok(());
    }
    let holders = move || (blue.holders(), green.as_deref().and_then(Child::holders));
    let follow = move |table: &mut Table, shown: &_, (blue, green)| table.follow(generation, shown, blue, green);
    groups.look(&instance.looks, holders, follow).await
}
