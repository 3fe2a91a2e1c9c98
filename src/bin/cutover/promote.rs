//! `cutover promote`: moves the rollout that is under way ahead.

use clap::Args;

use crate::exit::{Failure, say};
use crate::target::Target;

/// End the canary or the soak of the rollout that is under way, and go on.
///
/// Exit status 75 if there is nothing to promote.
#[derive(Debug, Args)]
pub(crate) struct Promote {
    #[command(flatten)]
    target: Target,
}

impl Promote {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        self.target.control().await?.promote().await?;
        say("promoted");
        Ok(())
    }
}
