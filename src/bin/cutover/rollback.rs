//! `cutover rollback`: gives up the rollout that is under way.

use std::time::Duration;

use clap::Args;
use cutover::control::Control;
use tokio::time::{sleep, timeout};

use crate::exit::{Failure, TRY_AGAIN, say};
use crate::target::Target;

/// How long the next generation may take to be gone, or sent away.
const PATIENCE: Duration = Duration::from_secs(10);
/// The interval between two looks at the status.
const LOOK: Duration = Duration::from_millis(20);

/// Give up the rollout that is under way: the old generation gets all new connections again.
///
/// Returns when the rollback is complete, so that another reload can be asked for. Exit status 75 if there is nothing
/// to roll back.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    #[command(flatten)]
    target: Target,
}

impl Rollback {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let control = self.target.control().await?;
        control.rollback().await?;
        match timeout(PATIENCE, nothing_left(&control)).await {
            Ok(ended) => ended?,
            Err(_) => {
                return Err(Failure::new(
                    TRY_AGAIN,
                    format!("the rollback was asked for, and is not complete after {PATIENCE:?}"),
                ));
            }
        }
        say("rolled back");
        Ok(())
    }
}

async fn nothing_left(control: &Control) -> Result<(), Failure> {
    while control.status().await?.rollout.is_some() {
        sleep(LOOK).await;
    }
    Ok(())
}
