//! The heartbeat of the driver. The watchdog of the service manager is answered by the loop itself, and not by a
//! separate task that would live on while the loop hangs.

use std::time::Duration;

use tokio::sync::mpsc;

use super::input::Input;
use crate::model::identity::Pid;
use crate::sys::launch::Launch;

/// The longest time between two heartbeats.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

/// The watchdog interval for this process: `WATCHDOG_USEC`, unless `WATCHDOG_PID` names another process
/// (sd_watchdog_enabled(3)). A generation that another generation has spawned has no `WATCHDOG_PID`, because that
/// generation will be the main process.
pub(crate) fn watchdog(launch: &Launch, pid: Pid) -> Option<Duration> {
    let number = |name: &str| launch.variable(name)?.to_str()?.parse::<u64>().ok();
    let mine = launch.variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(pid.number().into());
    number("WATCHDOG_USEC").filter(|usec| mine && *usec > 0).map(Duration::from_micros)
}

/// Sends heartbeats until the driver is gone: three in each watchdog interval, so that one late heartbeat does no harm.
pub(crate) fn start(inputs: mpsc::Sender<Input>, watchdog: Option<Duration>) {
    let every = watchdog.map_or(HEARTBEAT, |limit| HEARTBEAT.min(limit / 3));
    tokio::spawn(async move {
        let mut heartbeats = tokio::time::interval(every);
        heartbeats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            heartbeats.tick().await;
            if inputs.send(Input::Heartbeat).await.is_err() {
                return;
            }
        }
    });
}
