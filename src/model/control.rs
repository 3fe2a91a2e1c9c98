//! What the control socket says, in JSON: the status of an instance, and the lines of a reload that is followed.
//!
//! Versions of both ends may differ: fields are only ever added, unknown ones are ignored, and events of a later version
//! are [`Progress::Unknown`].

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Outcome, Phase};
use super::identity::{Generation, Pid};
use super::share::Share;
use super::steering::Tier;

/// The status of one instance: `GET /v1/status`. All times are seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// The name by which the instance is picked.
    pub name: String,
    /// The version of cutover in the generation that answers.
    pub version: String,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// How new connections are moved at the next reload.
    pub steering: Tier,
    /// The rollout that is under way, if one is.
    pub rollout: Option<RolloutStatus>,
    /// All generations that live, the newest first.
    pub generations: Vec<GenerationStatus>,
    /// How the last reload ended, if there was one.
    pub last_reload: Option<LastReload>,
    /// How many reloads have ended well since the instance was started.
    pub reloads_done: u64,
    /// How many were rolled back.
    pub reloads_rolled_back: u64,
    /// The process that supervises them, if they do not do it themselves (`cutover run`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<Pid>,
}

/// A rollout that is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RolloutStatus {
    /// The next generation.
    pub generation: Generation,
    /// Where the rollout stands.
    pub phase: Phase,
    /// The part of new connections that the next generation gets now.
    pub share: Share,
    /// Since the reload was asked for.
    #[serde(with = "seconds")]
    pub elapsed: Duration,
    /// Until this step ends by itself, if it does: the rest of a canary step or of the soak, or the patience with a step
    /// that is waited for.
    #[serde(with = "seconds::option", default)]
    pub left: Option<Duration>,
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GenerationStatus {
    /// Its number.
    pub generation: Generation,
    /// Its process.
    pub pid: Pid,
    /// Where it stands in its life.
    pub phase: Phase,
    /// How long its process lives.
    #[serde(with = "seconds::option", default)]
    pub age: Option<Duration>,
    /// The part of new connections that it gets.
    pub share: Share,
    /// Its open connections, if they can be counted.
    #[serde(default)]
    pub connections: Option<u64>,
    /// The same by kind, of the generation that answers.
    #[serde(default)]
    pub kinds: Option<ConnectionKinds>,
}

/// Open connections by what is spoken on them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ConnectionKinds {
    /// Nothing yet.
    pub fresh: u64,
    /// HTTP/1.
    pub http1: u64,
    /// HTTP/2.
    pub http2: u64,
    /// What began as HTTP/1 and was upgraded: WebSocket and others.
    pub upgraded: u64,
    /// What the application makes of it: connections of [`Server::listen`](crate::Server::listen).
    pub tcp: u64,
}

/// How the last reload ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LastReload {
    /// How.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// When, in seconds since 1970 (UTC).
    pub at: u64,
}

/// One line of a reload that is followed: `POST /v1/reload`. The last one is the outcome, or [`Progress::Gone`] if the
/// end of the old generation was asked for as well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Progress {
    /// The rollout went on to another phase.
    #[non_exhaustive]
    Phase {
        /// The generation that the rollout brings.
        generation: Generation,
        /// The phase that begins.
        phase: Phase,
        /// Since the reload was asked for.
        #[serde(with = "seconds")]
        elapsed: Duration,
    },
    /// A step of the canary begins.
    #[non_exhaustive]
    Canary {
        /// The part of new connections that the next generation gets from now on.
        share: Share,
        /// For how long.
        #[serde(rename = "seconds", with = "seconds")]
        time: Duration,
    },
    /// All new connections go to the next generation, and the old one can still have them back.
    #[non_exhaustive]
    Soak {
        /// For how long.
        #[serde(rename = "seconds", with = "seconds")]
        time: Duration,
    },
    /// The old generation finishes what it has.
    #[non_exhaustive]
    Draining {
        /// So many connections are left.
        connections: u64,
    },
    /// How the reload ended.
    Outcome(Outcome),
    /// The old generation has nothing left to do, and its process ends.
    Gone,
    /// Something that a later version tells.
    #[serde(other)]
    Unknown,
}

/// Why a request was refused: the body of every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) error: String,
}

/// Durations as seconds, with a fraction.
pub(crate) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        // Microseconds are enough for people and scripts.
        to.serialize_f64((time.as_secs_f64() * 1e6).round() / 1e6)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(D::Error::custom)
    }

    /// The same, where there may be none.
    pub(crate) mod option {
        use super::{Deserialize, Deserializer, Duration, Error, Serializer};

        pub(crate) fn serialize<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, to),
                None => to.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
            let seconds = Option::<f64>::deserialize(from)?;
            seconds.map(Duration::try_from_secs_f64).transpose().map_err(D::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                Progress::Canary { share: Share::percent(5.0).expect("a share"), time: Duration::from_secs(30) },
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
