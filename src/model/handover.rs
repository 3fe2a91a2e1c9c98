//! The messages between generations: lines of JSON on a stream socket, and the variables that green is started with.
//!
//! The two ends may have different versions: unknown fields and kinds are ignored, and a missing field has a default.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::addresses::Bound;
use super::event::Outcome;
use super::identity::{Generation, Inode, Pid};
use super::status::LastReload;
#[cfg(feature = "tls")]
use super::ticket_keys::TicketKey;
use super::unix_address::UnixAddress;

/// The version of the messages. Raised for a change that an older generation cannot ignore as an unknown field.
pub(crate) const PROTOCOL: u32 = 1;

/// What green gets in its environment, before there is a connection to blue.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct SpawnInfo {
    #[serde(default = "protocol")]
    pub(crate) protocol: u32,
    pub(crate) generation: Generation,
    /// The process that spawned green. A process whose parent is neither blue nor the manager is not the addressee.
    pub(crate) blue: Pid,
    /// The service manager whose child blue is. The next generation is its child too, so that the service manager waits
    /// for the next generation as for blue.
    #[serde(default)]
    pub(crate) manager: Option<Pid>,
    pub(crate) blue_generation: Generation,
    /// The abstract name of the stream socket that blue listens on.
    pub(crate) handover: String,
    #[serde(default)]
    pub(crate) addresses: Vec<Bound>,
    /// The control socket that green takes over when it is live.
    #[serde(default)]
    pub(crate) control: Option<PathBuf>,
}

/// The listeners of one group, in the order of their slots.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct GroupOrder {
    pub(crate) address: SocketAddr,
    pub(crate) listeners: Vec<Inode>,
}

/// A generation that still finishes its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Drainer {
    pub(crate) generation: Generation,
    pub(crate) pid: Pid,
}

/// The history of an instance's reloads, handed from generation to generation.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(crate) struct History {
    pub(crate) done: u64,
    pub(crate) rolled_back: u64,
    pub(crate) last: Option<LastReload>,
}

impl History {
    /// Adds a reload that ended with this outcome at this time (seconds since 1970).
    pub(crate) fn add(&mut self, outcome: Outcome, at: u64) {
        match outcome {
            Outcome::Done { .. } => self.done += 1,
            Outcome::RolledBack { .. } => self.rolled_back += 1,
        }
        self.last = Some(LastReload { outcome, at });
    }
}

/// A listener on a Unix socket that goes from generation to generation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct PassedListener {
    pub(crate) address: UnixAddress,
    /// The device and the inode of its file, by which the last generation knows whether the file is still its own.
    #[serde(default)]
    pub(crate) file: Option<(u64, u64)>,
}

/// Where green listens.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Listening {
    pub(crate) addresses: Vec<Bound>,
    pub(crate) groups: Vec<GroupOrder>,
}

/// One line from green to blue.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum FromGreen {
    /// Green listens on these addresses, with its listeners in this order.
    Listening(Listening),
    /// Green has taken the leadership: the control socket, the PID file and the service manager are its own.
    Live,
    /// Green cannot start.
    Failed { reason: String },
    /// Green asks for the listeners on these Unix sockets, before it listens.
    WantsListeners { addresses: Vec<UnixAddress> },
    /// Green asks for the state of the application, before it listens.
    WantsState,
    /// Green asks for the keys of the TLS session tickets, before it listens.
    #[cfg(feature = "tls")]
    WantsTickets,
    /// A kind that a later version has.
    #[serde(other)]
    Unknown,
}

/// One line from blue to green.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum FromBlue {
    /// Green is the live generation now; blue and earlier generations still drain.
    Live {
        #[serde(default)]
        draining: Vec<Drainer>,
        #[serde(default)]
        history: History,
    },
    /// Blue has taken all new connections back: green finishes its open connections, and ends.
    TakenBack,
    /// Blue has closed its listeners; the groups have the slots as they are now.
    Closed {
        #[serde(default)]
        groups: Vec<GroupOrder>,
    },
    /// The listeners on these Unix sockets, whose descriptors come with this line in the same order.
    Listeners {
        #[serde(default)]
        listeners: Vec<PassedListener>,
    },
    /// The state of blue's application, whose bytes follow this line.
    State { version: u32, length: u64 },
    /// Blue's application has no state for the next generation.
    NoState,
    /// The keys of blue's session tickets; none if blue speaks no TLS.
    #[cfg(feature = "tls")]
    Tickets {
        #[serde(default)]
        keys: Vec<TicketKey>,
    },
    /// A kind that a later version has.
    #[serde(other)]
    Unknown,
}

fn protocol() -> u32 {
    PROTOCOL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_and_a_newer_version_are_understood() {
        assert_eq!(
            serde_json::from_str::<FromBlue>(r#"{"kind":"live"}"#).ok(),
            Some(FromBlue::Live { draining: vec![], history: History::default() })
        );
        let live = FromBlue::Live { draining: vec![], history: History::default() };
        let newer = r#"{"kind":"live","draining":[],"tickets":"abc"}"#;
        assert_eq!(serde_json::from_str::<FromBlue>(newer).ok(), Some(live));
        assert_eq!(serde_json::from_str::<FromBlue>(r#"{"kind":"sing","song":1}"#).ok(), Some(FromBlue::Unknown));
        assert_eq!(serde_json::from_str::<FromGreen>(r#"{"kind":"dance"}"#).ok(), Some(FromGreen::Unknown));
    }

    #[test]
    fn a_birth_certificate_survives_the_environment() {
        let spawn_info = SpawnInfo {
            protocol: PROTOCOL,
            generation: Generation::new(4),
            blue: Pid::new(12),
            manager: Some(Pid::new(1)),
            blue_generation: Generation::new(2),
            handover: "cutover-12-4".into(),
            addresses: vec![],
            control: None,
        };
        let text = serde_json::to_string(&spawn_info).expect("plain data");
        assert_eq!(serde_json::from_str::<SpawnInfo>(&text).ok(), Some(spawn_info));
    }
}
