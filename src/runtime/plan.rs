//! Turns the settings of the user into the plan of the rollout machine.

use crate::config::Config;
use crate::error::{Error, ErrorKind};
use crate::model::probe::Target;
use crate::model::rollout::{CanaryStep, Plan};
use crate::model::share::Share;

fn wrong(what: String) -> Error {
    Error::new(ErrorKind::Config, what)
}

/// The target of the probe, if a probe is set.
///
/// # Errors
/// If the target cannot be parsed, or cannot be probed: says why.
pub(crate) fn target(config: &Config) -> Result<Option<Target>, Error> {
    let Some(text) = &config.probe else { return Ok(None) };
    let target: Target = text.parse().map_err(|why| wrong(format!("the probe is not understood: {why}")))?;
    target.check().map_err(|why| wrong(format!("the probe cannot be done: {why}")))?;
    Ok(Some(target))
}

/// The course of each rollout.
///
/// # Errors
/// If a canary step has a share of 0 %.
pub(crate) fn plan(config: &Config) -> Result<Plan, Error> {
    let step = |&(share, time): &(Share, _)| {
        if share == Share::NONE {
            return Err(wrong(
                "a canary step of 0 %: the share must be more than 0 and not more than 100, in steps of 0.01".into(),
            ));
        }
        Ok(CanaryStep { share, time })
    };
    Ok(Plan {
        ready: config.ready_timeout,
        linger: config.linger,
        drain: config.drain_timeout,
        probe: config.probe.as_ref().map(|_| config.probe_timeout),
        canary: config.canary.iter().map(step).collect::<Result<_, _>>()?,
        soak: config.soak,
    })
}
