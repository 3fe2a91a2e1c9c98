//! The way forward: the listeners of both generations are followed.

use std::time::Duration;

use super::SupervisedHost;
use super::listeners::follow;
use crate::model::identity::Generation;

/// Interval between looks at the listeners, because there is no event for a listener that was closed or has come.
const LOOK: Duration = Duration::from_millis(20);

impl SupervisedHost {
    /// Repeats the look at the listeners for as long as a steering program that names slots is attached.
    pub(super) fn begin_to_follow(&mut self, generation: Generation) {
        let (instance, blue) = (self.instance.clone(), self.child.clone());
        let green = self.next.of(generation).cloned();
        let task = tokio::spawn(async move {
            while follow(instance.clone(), generation, blue.clone(), green.clone()).await.is_ok() {
                tokio::time::sleep(LOOK).await;
            }
        });
        if let Some(before) = self.following.replace(task.abort_handle()) {
            before.abort();
        }
    }
}
