//! The status of an instance: the JSON that the control socket answers with.
//!
//! The two ends may have different versions: fields are only ever added, and unknown fields are ignored.

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
    /// The name of the instance, by which clients choose it.
    pub name: String,
    /// The version of cutover in the generation that answers.
    pub version: String,
    /// The addresses that the instance listens on.
    pub addresses: Vec<SocketAddr>,
    /// The Unix sockets that the instance listens on: `unix:/path` or `unix:@name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unix: Vec<String>,
    /// How new connections will be moved at the next reload.
    pub steering: SteeringMode,
    /// The rollout that is under way, if one is.
    pub rollout: Option<RolloutStatus>,
    /// All living generations, the newest first.
    pub generations: Vec<GenerationStatus>,
    /// How the last reload ended, if there was one.
    pub last_reload: Option<LastReload>,
    /// The number of reloads that have succeeded since the instance was started.
    pub reloads_done: u64,
    /// The number of reloads that were rolled back since then.
    pub reloads_rolled_back: u64,
    /// The process that supervises the generations (`cutover run`); `None` if the generations do that themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<Pid>,
}

/// A rollout that is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RolloutStatus {
    /// The next generation.
    pub generation: Generation,
    /// The phase of the rollout.
    pub phase: Phase,
    /// The part of new connections that the next generation gets now.
    pub share: Share,
    /// The time since the reload was requested.
    #[serde(with = "seconds")]
    pub elapsed: Duration,
    /// The time until this step ends by itself, if it does: the rest of a canary step or of the soak, or of the time
    /// limit of a step that waits for something.
    #[serde(with = "seconds::option", default)]
    pub left: Option<Duration>,
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GenerationStatus {
    /// The number of the generation.
    pub generation: Generation,
    /// The process of the generation.
    pub pid: Pid,
    /// The phase of the generation.
    pub phase: Phase,
    /// The age of the process.
    #[serde(with = "seconds::option", default)]
    pub age: Option<Duration>,
    /// The part of new connections that the generation gets.
    pub share: Share,
    /// The number of open connections, if they can be counted.
    #[serde(default)]
    pub connections: Option<u64>,
    /// The open connections by kind, of the generation that answers.
    #[serde(default)]
    pub kinds: Option<ConnectionKinds>,
}

/// The numbers of open connections by protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ConnectionKinds {
    /// Connections whose protocol is not known yet.
    pub fresh: u64,
    /// HTTP/1 connections.
    pub http1: u64,
    /// HTTP/2 connections.
    pub http2: u64,
    /// Connections that began as HTTP/1 and were upgraded: WebSocket and others.
    pub upgraded: u64,
    /// Connections of [`Server::listen`](crate::Server::listen), whose protocol is that of the application.
    pub tcp: u64,
}

/// How the last reload ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LastReload {
    /// The outcome of the reload.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// When the reload ended, in seconds since 1970 (UTC).
    pub at: u64,
}

/// Why a request was refused: the body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) error: String,
}
