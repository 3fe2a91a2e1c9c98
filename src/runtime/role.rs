//! Who this process is: the first generation, or one that another has spawned.

use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use crate::model::handover::SpawnInfo;
use crate::model::identity::{Generation, Pid};
use crate::sys::launch::Launch;
use crate::sys::{credentials, spawn};

/// The variable in which green finds its [`SpawnInfo`], as JSON.
pub(crate) const SPAWN_INFO: &str = "CUTOVER_BIRTH";
/// The variable in which green finds where the generation before wants to hear READY=1, in the form of NOTIFY_SOCKET
/// (sd_notify(3)). NOTIFY_SOCKET itself is the service manager's in each generation.
pub(crate) const NOTIFY: &str = "CUTOVER_NOTIFY_SOCKET";
/// Set by systemd to the pid of the process that it has started itself: systemd.exec(5), since 248.
const EXEC_PID: &str = "SYSTEMD_EXEC_PID";
/// By this a process knows which generation of `cutover run` it belongs to: the supervisor's pid, and the number.
pub(crate) const SUPERVISED: &str = "CUTOVER_RUN";
/// So many processes may stand between the supervisor and a server: shells and launchers.
const ANCESTORS: usize = 16;
/// Variables that name one process, or descriptors of one process, so that the next generation never gets them: sd_notify(3),
/// sd_listen_fds(3), systemd.exec(5). All other variables of the service manager, NOTIFY_SOCKET above all, have the same
/// value in each generation, because the application may use them.
pub(crate) const OWN: [&str; 8] =
    [SPAWN_INFO, NOTIFY, EXEC_PID, "WATCHDOG_PID", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// How this process came to be.
#[derive(Debug)]
pub(crate) enum Role {
    /// Started from outside.
    First,
    /// Started by `cutover run`, which starts the next one too, beside it.
    Supervised { generation: Generation },
    /// Spawned by a generation that lives and waits for it.
    Green { spawn_info: SpawnInfo, blue: UnixStream },
    /// Spawned by a generation that is gone.
    Orphan { spawn_info: SpawnInfo },
}

impl Role {
    /// Finds out. A process that has inherited the variables of its parent without being meant is a first generation.
    #[expect(
        clippy::disallowed_methods,
        reason = "before the server begins; the generation before waits, with a deadline"
    )]
    pub(crate) fn find(launch: &Launch) -> Role {
        let told =
            launch.variable(SPAWN_INFO).and_then(|text| text.to_str()).and_then(|text| serde_json::from_str(text).ok());
        let Some(spawn_info): Option<SpawnInfo> = told else {
            return supervised(launch).map_or(Role::First, |generation| Role::Supervised { generation });
        };
        let parent = spawn::parent();
        let connected =
            SocketAddr::from_abstract_name(&spawn_info.handover).and_then(|name| UnixStream::connect_addr(&name));
        match connected {
            Ok(blue) if parent.is_some_and(|pid| pid == spawn_info.blue || Some(pid) == spawn_info.manager) => {
                Role::Green { spawn_info, blue }
            }
            Ok(blue) => {
                // Blue lives and did not start this process: somebody else's child with an inherited environment.
                let _ = blue.shutdown(Shutdown::Both);
                Role::First
            }
            Err(_) => Role::Orphan { spawn_info },
        }
    }

    /// The service manager, if this process is its child: then each later generation is to be one too.
    pub(crate) fn manager(&self, launch: &Launch) -> Option<Pid> {
        let parent = spawn::parent();
        match self.spawn_info() {
            // Inherited by whatever the service starts, so it counts only for the process that it names.
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
            Role::Green { spawn_info, .. } | Role::Orphan { spawn_info } => spawn_info.generation,
        }
    }

    pub(crate) fn spawn_info(&self) -> Option<&SpawnInfo> {
        match self {
            Role::First | Role::Supervised { .. } => None,
            Role::Green { spawn_info, .. } | Role::Orphan { spawn_info } => Some(spawn_info),
        }
    }
}

/// The number that the supervisor has given to what it has started, if this process descends from it: a terminal that was
/// opened below it hands the variable on too.
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
