//! The status of an instance, as the control socket answers it in JSON.
//!
//! Versions of both ends may differ: fields are only ever added, and unknown fields are ignored.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Outcome, Phase};
use super::identity::{Generation, Pid};
use super::seconds;
use super::share::Share;
use super::steering::SteeringMode;

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
    pub steering: SteeringMode,
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

/// Why a request was refused: the body of every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) error: String,
}
