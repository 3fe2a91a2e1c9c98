//! `cutover rollback`: the rollout that is under way is given up.

use clap::Args;

use crate::exit::{Failure, say};
use crate::target::Target;

/// Give up the rollout that is under way: the old generation gets all new connections again.
///
/// Exit status 75 if there is nothing that can be taken back.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    #[command(flatten)]
    target: Target,
}

impl Rollback {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        self.target.control()?.rollback().await?;
        say("rolling back");
        Ok(())
    }
}
