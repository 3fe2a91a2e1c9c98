//! The role of this process: the first generation, or a generation that another process has spawned.

use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use crate::model::handover::SpawnInfo;
use crate::model::identity::{Generation, Pid};
use crate::sys::launch::Launch;
use crate::sys::{credentials, spawn};

/// The variable in which green finds its [`SpawnInfo`], as JSON.
pub(crate) const SPAWN_INFO: &str = "CUTOVER_BIRTH";
/// The variable that names the socket on which the previous generation expects READY=1 from green, in the form of
/// NOTIFY_SOCKET (sd_notify(3)). NOTIFY_SOCKET itself names the socket of the service manager in each generation.
pub(crate) const NOTIFY: &str = "CUTOVER_NOTIFY_SOCKET";
/// Set by systemd to the pid of the process that it has started itself: systemd.exec(5), since 248.
const EXEC_PID: &str = "SYSTEMD_EXEC_PID";
/// The variable that tells a process which generation of `cutover run` it belongs to: the supervisor's pid, and the
/// number.
pub(crate) const SUPERVISED: &str = "CUTOVER_RUN";
/// How many processes may stand between the supervisor and a server: shells and launchers.
const ANCESTORS: usize = 16;
/// Variables that name one process, or descriptors of one process, so that the next generation must not get them:
/// sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3), systemd.exec(5) up to 258 (MAINPIDFDID, LISTEN_PIDFDID).
///
/// All other variables of the service manager have the same value in each generation, because the application may use
/// them: they name the service (NOTIFY_SOCKET, INVOCATION_ID, CREDENTIALS_DIRECTORY, WATCHDOG_USEC, FDSTORE,
/// MEMORY_PRESSURE_WATCH), the manager (MANAGERPID, MANAGERPIDFDID), the cause of the start (TRIGGER_UNIT), or what
/// descriptors 0, 1 and 2 are, which each generation has (JOURNAL_STREAM; REMOTE_ADDR with StandardInput=socket).
pub(crate) const OWN: [&str; 10] = [
    SPAWN_INFO,
    NOTIFY,
    EXEC_PID,
    "MAINPID",
    "MAINPIDFDID",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

/// How this process was started.
#[derive(Debug)]
pub(crate) enum Role {
    /// Started from outside, not spawned as a generation.
    First,
    /// Started by `cutover run`, which also starts the next generation beside this one.
    Supervised { generation: Generation },
    /// Spawned by a generation that is alive and waits for this process.
    Green { spawn_info: SpawnInfo },
    /// Spawned by a generation that is gone.
    Orphan { spawn_info: SpawnInfo },
}

impl Role {
    /// Finds the role of this process. A process that has only inherited the variables of its parent, and was not
    /// spawned as a generation, is a first generation. A [`Role::Green`] is connected to blue's handover socket.
    #[expect(
        clippy::disallowed_methods,
        reason = "before the server begins; the generation before waits, with a deadline"
    )]
    pub(crate) fn find(launch: &Launch) -> (Role, Option<UnixStream>) {
        let told =
            launch.variable(SPAWN_INFO).and_then(|text| text.to_str()).and_then(|text| serde_json::from_str(text).ok());
        let Some(spawn_info): Option<SpawnInfo> = told else {
            let role = supervised(launch).map_or(Role::First, |generation| Role::Supervised { generation });
            return (role, None);
        };
        let parent = spawn::parent();
        let connected =
            SocketAddr::from_abstract_name(&spawn_info.handover).and_then(|name| UnixStream::connect_addr(&name));
        match connected {
            Ok(blue) if parent.is_some_and(|pid| pid == spawn_info.blue || Some(pid) == spawn_info.manager) => {
                (Role::Green { spawn_info }, Some(blue))
            }
            Ok(blue) => {
                // Blue is alive and did not start this process: this is a child of another process, with an inherited
                // environment.
                let _ = blue.shutdown(Shutdown::Both);
                (Role::First, None)
            }
            Err(_) => (Role::Orphan { spawn_info }, None),
        }
    }

    /// The pid of the service manager, if this process is its child: then each later generation must be its child too.
    pub(crate) fn manager(&self, launch: &Launch) -> Option<Pid> {
        let parent = spawn::parent();
        match self.spawn_info() {
            // Every process that the service starts inherits the variable, so it counts only for the process that it
            // names.
            None => {
                let own = std::process::id().to_string();
                parent.filter(|_| launch.variable(EXEC_PID).is_some_and(|pid| pid == own.as_str()))
            }
            Some(spawn_info) => parent.filter(|_| spawn_info.manager == parent),
        }
    }

    pub(crate) fn generation(&self) -> Generation {
        match self {
            Role::First => Generation::FIRST,
            Role::Supervised { generation } => *generation,
            Role::Green { spawn_info } | Role::Orphan { spawn_info } => spawn_info.generation,
        }
    }

    pub(crate) fn spawn_info(&self) -> Option<&SpawnInfo> {
        match self {
            Role::First | Role::Supervised { .. } => None,
            Role::Green { spawn_info } | Role::Orphan { spawn_info } => Some(spawn_info),
        }
    }
}

/// The number that the supervisor has given to the generation of this process. Counts only if this process descends
/// from the supervisor, because a terminal that was opened below it passes the variable on too.
fn supervised(launch: &Launch) -> Option<Generation> {
    let (supervisor, generation) = launch.variable(SUPERVISED)?.to_str()?.split_once('/')?;
    let (supervisor, generation) = (Pid::new(supervisor.parse().ok()?), generation.parse().ok()?);
    let mut above = spawn::parent()?;
    for _ in 0..ANCESTORS {
        if above == supervisor {
            return Some(Generation::new(generation));
        }
        above = credentials::of(above).ok()?.parent;
    }
    None
}
