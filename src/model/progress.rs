//! The progress of a reload: the lines of JSON that the control socket sends for a reload that is followed.
//!
//! The two ends may have different versions: fields are only ever added, unknown fields are ignored, and events of a
//! later version are [`Progress::Unknown`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Outcome, Phase};
use super::identity::Generation;
use super::seconds;
use super::share::Share;

/// One event of a reload that is followed: one line of the answer to `POST /v1/reload`. The last event is the outcome,
/// or [`Progress::Gone`] if the end of the old generation was asked for as well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Progress {
    /// The rollout entered another phase.
    #[non_exhaustive]
    Phase {
        /// The next generation, which the rollout starts.
        generation: Generation,
        /// The phase that begins.
        phase: Phase,
        /// The time since the reload was requested.
        #[serde(with = "seconds")]
        elapsed: Duration,
    },
    /// A step of the canary begins.
    #[non_exhaustive]
    Canary {
        /// The part of new connections that the next generation gets from now on.
        share: Share,
        /// How long the step lasts.
        #[serde(rename = "seconds", with = "seconds")]
        time: Duration,
    },
    /// All new connections go to the next generation, and the old generation can still take them back.
    #[non_exhaustive]
    Soak {
        /// How long the old generation can take them back.
        #[serde(rename = "seconds", with = "seconds")]
        time: Duration,
    },
    /// The old generation finishes its open connections.
    #[non_exhaustive]
    Draining {
        /// The number of connections that are left.
        connections: u64,
    },
    /// How the reload ended.
    Outcome(Outcome),
    /// The old generation has nothing left to do, and its process ends.
    Gone,
    /// An event of a later version.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Pid;

    #[test]
    fn lines_are_flat_and_survive_the_way() {
        let lines = [
            (
                Progress::Phase {
                    generation: Generation::new(2),
                    phase: Phase::Starting,
                    elapsed: Duration::from_millis(12),
                },
                r#"{"event":"phase","generation":2,"phase":"starting","elapsed":0.012}"#,
            ),
            (
                Progress::Canary { share: Share::percent(5), time: Duration::from_secs(30) },
                r#"{"event":"canary","share":5.0,"seconds":30.0}"#,
            ),
            (
                Progress::Outcome(Outcome::Done {
                    generation: Generation::new(2),
                    pid: Pid::new(7),
                    took: Duration::from_millis(41),
                }),
                r#"{"event":"outcome","outcome":"done","generation":2,"pid":7,"took":0.041}"#,
            ),
            (Progress::Draining { connections: 37 }, r#"{"event":"draining","connections":37}"#),
            (Progress::Gone, r#"{"event":"gone"}"#),
        ];
        for (progress, line) in lines {
            assert_eq!(serde_json::to_string(&progress).expect("plain data"), line);
            assert_eq!(serde_json::from_str::<Progress>(line).expect("our own"), progress);
        }
    }

    #[test]
    fn what_a_later_version_adds_is_no_error() {
        assert_eq!(
            serde_json::from_str::<Progress>(r#"{"event":"sing","song":1}"#).expect("unknown"),
            Progress::Unknown
        );
        let outcome = r#"{"event":"outcome","outcome":"rolled_back","generation":3,"reason":"no","took":1.5,"mood":1}"#;
        assert!(matches!(serde_json::from_str(outcome), Ok(Progress::Outcome(Outcome::RolledBack { .. }))));
    }
}
