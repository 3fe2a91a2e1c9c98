//! `cutover status`: shows the generations of an instance and their state.

use std::io::IsTerminal as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use cutover::control::Status as State;

use crate::exit::{BUG, Failure, print};
use crate::screen::Screen;
use crate::target::Target;
use crate::{format, status_table};

/// The shortest interval: people cannot read anything faster.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Show the generations of an instance, and the rollout that is under way.
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    target: Target,
    /// As JSON, on one line.
    #[arg(long)]
    json: bool,
    /// Look again and again, until the instance is gone (exit status 69).
    #[arg(long, value_name = "INTERVAL", value_parser = format::parse_time, num_args = 0..=1, default_missing_value = "1s")]
    watch: Option<Duration>,
}

impl Status {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let control = self.target.control().await?;
        let mut show = Show::new(self.json, self.watch.is_some() && std::io::stdout().is_terminal());
        loop {
            let text = show.text(&control.status().await?)?;
            print(&text)?;
            let Some(interval) = self.watch else { return Ok(()) };
            // Polls at the requested interval, because an instance does not report its status by itself.
            tokio::time::sleep(interval.max(INTERVAL_MIN)).await;
        }
    }
}

/// The form in which the status is shown.
enum Show {
    Json,
    Redrawn(Screen),
    First,
    /// One status after the other, with an empty line between them.
    Further,
}

impl Show {
    fn new(json: bool, redraw: bool) -> Show {
        match (json, redraw) {
            (true, _) => Show::Json,
            (false, true) => Show::Redrawn(Screen::default()),
            (false, false) => Show::First,
        }
    }

    fn text(&mut self, status: &State) -> Result<String, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        match self {
            Show::Json => match serde_json::to_string(status) {
                Ok(json) => Ok(json + "\n"),
                Err(error) => Err(Failure::new(BUG, format!("the status cannot be written as JSON: {error}"))),
            },
            Show::Redrawn(screen) => Ok(screen.frame(&status_table::render(status, now))),
            Show::First => {
                *self = Show::Further;
                Ok(status_table::render(status, now))
            }
            Show::Further => Ok(format!("\n{}", status_table::render(status, now))),
        }
    }
}
