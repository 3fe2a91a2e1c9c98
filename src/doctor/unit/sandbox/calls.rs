//! The system calls that a rollout needs, and that SystemCallFilter= may refuse.

use crate::doctor::finding::{Finding, Level};
use crate::doctor::unit::Unit;

const SUBJECT: &str = "SystemCallFilter";

/// The value of SystemCallErrorNumber= where it is not set: the process is killed (systemd.exec(5)).
const KILL: [&str; 2] = ["kill", "2147483646"];

struct Call {
    name: &'static str,
    /// Groups of systemd that contain the call. `systemctl show` writes the members of a group, but the name does no
    /// harm.
    groups: &'static [&'static str],
    /// How bad it is if the call is refused with an error; `without` says what that means.
    level: Level,
    without: &'static str,
}

const CALLS: [Call; 6] = [
    Call {
        name: "setsockopt",
        groups: &["@network-io", "@system-service"],
        level: Level::Problem,
        without: "nothing can be steered, and no listener can be bound beside another generation",
    },
    Call {
        name: "membarrier",
        groups: &["@system-service"],
        level: Level::Note,
        without: "a retiring generation waits 100 ms instead",
    },
    Call {
        name: "pidfd_open",
        groups: &["@process", "@system-service"],
        level: Level::Problem,
        without: "no next generation can be started",
    },
    Call {
        name: "pidfd_send_signal",
        groups: &["@process", "@system-service"],
        level: Level::Problem,
        without: "a next generation that hangs cannot be ended",
    },
    Call {
        name: "execve",
        groups: &["@default", "@process", "@system-service"],
        level: Level::Problem,
        without: "no next generation can be started",
    },
    Call {
        name: "waitid",
        groups: &["@process", "@system-service"],
        level: Level::Problem,
        without: "the end of a next generation cannot be seen",
    },
];

/// What the filter does with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Allowed,
    Refused,
    Killed,
}

pub(super) fn findings(unit: &Unit) -> Vec<Finding> {
    // `~` alone refuses nothing.
    let Some(filter) = unit.shown.shown(SUBJECT).filter(|filter| *filter != "~") else { return Vec::new() };
    let kills = KILL.contains(&unit.shown.one("SystemCallErrorNumber"));
    let found: Vec<Finding> = CALLS.iter().filter_map(|call| finding(call, fate(call, filter, kills))).collect();
    if found.is_empty() { vec![Finding::ok(SUBJECT, "lets through what a rollout needs")] } else { found }
}

fn fate(call: &Call, filter: &str, kills: bool) -> Fate {
    let (denies, list) = filter.strip_prefix('~').map_or((false, filter), |list| (true, list));
    let mut listed = false;
    for entry in list.split_whitespace() {
        // `name:EPERM`: the call is refused with this error, in an allow list as well as in a deny list.
        let (name, error) = entry.split_once(':').map_or((entry, None), |(name, error)| (name, Some(error)));
        if name == call.name || call.groups.contains(&name) {
            match error {
                Some("kill") => return Fate::Killed,
                Some(_) => return Fate::Refused,
                None => listed = true,
            }
        }
    }
    match (listed == denies, kills) {
        (false, _) => Fate::Allowed,
        (true, true) => Fate::Killed,
        (true, false) => Fate::Refused,
    }
}

fn finding(call: &Call, fate: Fate) -> Option<Finding> {
    let (level, what) = match fate {
        Fate::Allowed => return None,
        Fate::Refused => (call.level, format!("refuses {}: {}", call.name, call.without)),
        Fate::Killed => (Level::Problem, format!("kills a process that calls {}, and a rollout does", call.name)),
    };
    let fix = format!(
        "SystemCallFilter=@system-service {} as the last such line, and SystemCallErrorNumber=EPERM",
        call.name
    );
    Some(match level {
        Level::Ok | Level::Note => Finding::note(SUBJECT, what, fix),
        Level::Problem => Finding::problem(SUBJECT, what, fix),
    })
}
