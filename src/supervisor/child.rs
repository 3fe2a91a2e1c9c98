//! One generation of a supervised program: its first process, and all descendants of that process.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::UnixDatagram;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::model::identity::{Generation, Pid};
use crate::runtime::groups::Holders;
use crate::runtime::offload::{self, LOOK_MAX, Lane, Stalled};
use crate::runtime::role::{OWN, SUPERVISED};
use crate::runtime::status::Processes;
use crate::sys::launch::Launch;
use crate::sys::process::Process;
use crate::sys::process_tree::Orphans;
use crate::sys::reaper::{Ended, Reaper};
use crate::sys::spawn::{self, Group, Program};
use crate::sys::{notify_socket, process_tree, sock_diag, socket_owner};

/// Variables that the program gets anew, because it sends its notifications to the supervisor, and not to the service
/// manager.
const REPLACED: [&str; 2] = ["NOTIFY_SOCKET", SUPERVISED];
/// How long a killed generation may take to be gone before it is left behind. A process that hangs in the kernel (state
/// D, proc_pid_stat(5)) is not gone before the kernel has released it.
pub(super) const KILL_MAX: Duration = Duration::from_secs(5);
/// Interval between looks for remaining descendants of a process that has ended.
const LOOK: Duration = Duration::from_millis(10);

/// A process that was just spawned, whose notifications are not read before `notifications::listen`.
#[derive(Debug)]
pub(super) struct SpawnedChild {
    child: Child,
    notify: UnixDatagram,
}

/// A generation. Dropping this value leaves its processes alone.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) generation: Generation,
    /// The process that was started.
    pub(super) pid: Pid,
    process: Process,
    mark: String,
    /// The start time of the first process, from [`process_tree::start_of`]; `None` if the process has ended at once.
    born: Option<u64>,
    /// The reaper, which knows which children are not orphans.
    reaper: Reaper,
    ended: watch::Receiver<Option<Ended>>,
    /// The last status text that the generation has sent.
    says: Mutex<Option<String>>,
    /// Whether the generation has sent WATCHDOG=1: from then on its own notifications count.
    pings: AtomicBool,
    /// Whether the generation has been ready.
    was_ready: AtomicBool,
    listening: Mutex<Option<AbortHandle>>,
    open: Arc<AtomicUsize>,
    /// The lane for repeated looks at the processes of the generation: a look that hangs is not joined by others.
    pub(super) lane: Lane,
}

impl SpawnedChild {
    /// Spawns the first process. Blocks until exec has happened.
    ///
    /// # Errors
    /// If the program cannot be found or executed, or if a socket or the process cannot be created.
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever calls it is asked instead: each of these is disallowed itself"
    )]
    pub(super) fn spawn(
        program: &Launch,
        listeners: &[OwnedFd],
        reaper: &Reaper,
        generation: Generation,
    ) -> io::Result<SpawnedChild> {
        let path = program.executable().map_err(io::Error::other)?;
        let name = notify_socket::unique_name("notify")?;
        let notify = UnixDatagram::from_std(notify_socket::bind(&name)?)?;
        let mark = format!("{SUPERVISED}={}/{generation}", std::process::id());
        let is_handed_on = |name: &OsString| !OWN.iter().chain(&REPLACED).any(|own| name == own);
        let mut environment: Vec<(OsString, OsString)> =
            program.environment().iter().filter(|(name, _)| is_handed_on(name)).cloned().collect();
        environment.push(("NOTIFY_SOCKET".into(), format!("@{name}").into()));
        environment.extend(mark.split_once('=').map(|(name, value)| (name.into(), value.into())));
        let program = Program {
            path: &path,
            arguments: program.arguments(),
            environment,
            directory: program.directory(),
            attributes: program.attributes(),
            group: Group::Own,
            listeners,
        };
        let (process, end) = reaper.spawn(|| spawn::program(&program))?;
        let (tell, ended) = watch::channel(None);
        tokio::spawn(async move {
            // An error means that the reaper is gone.
            if let Ok(how) = end.await {
                tell.send_replace(Some(how));
            }
        });
        let child = Child {
            generation,
            pid: process.pid,
            born: process_tree::start_of(process.pid),
            reaper: reaper.clone(),
            process,
            mark,
            ended,
            says: Mutex::new(None),
            pings: AtomicBool::new(false),
            was_ready: AtomicBool::new(false),
            listening: Mutex::new(None),
            open: Arc::default(),
            lane: Lane::new(2),
        };
        Ok(SpawnedChild { child, notify })
    }

    /// The generation, with the socket of its notifications.
    pub(super) fn into_parts(self) -> (Child, UnixDatagram) {
        (self.child, self.notify)
    }

    /// Kills the generation before any of its notifications was read.
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever calls it is asked instead: each of these is disallowed itself"
    )]
    pub(super) fn kill(self) {
        self.child.kill();
    }
}

impl Child {
    /// The living processes of this generation.
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever calls it is asked instead: each of these is disallowed itself"
    )]
    pub(super) fn members(&self) -> BTreeSet<Pid> {
        // Read before the look: a process that ends during the look may have left orphans that the look has not seen.
        let has_ended = self.has_ended().is_some();
        // Orphans with an overwritten environment exist only in a tree that has lost its root, or that puts itself into
        // the background.
        let since = self.born.filter(|_| has_ended || !self.was_ready());
        let spawned = || self.reaper.spawned();
        let orphans = Orphans { spawned: &spawned, wiped_since: since };
        let mut members = process_tree::living(self.pid, self.mark.as_bytes(), orphans).unwrap_or_default();
        // Once the first process was reaped, its number may belong to another process, which does not have the
        // environment of this generation.
        if has_ended {
            members.remove(&self.pid);
        }
        members
    }

    /// The sockets of the living processes, and the holders of each socket; `None` if the sockets of no process may be
    /// read.
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever calls it is asked instead: each of these is disallowed itself"
    )]
    pub(super) fn holders(&self) -> Option<Holders> {
        let mut holders: Holders = BTreeMap::new();
        let mut seen = false;
        for pid in self.members() {
            let Ok(sockets) = socket_owner::sockets_of(pid) else { continue };
            seen = true;
            for inode in sockets {
                holders.entry(inode).or_default().insert(pid);
            }
        }
        seen.then_some(holders)
    }

    /// The addresses on which the generation listens.
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever calls it is asked instead: each of these is disallowed itself"
    )]
    pub(super) fn addresses(&self) -> BTreeSet<SocketAddr> {
        let holders = self.holders().unwrap_or_default();
        let all = sock_diag::all_listeners().unwrap_or_default();
        all.into_iter().filter(|listener| holders.contains_key(&listener.inode)).map(|l| l.address).collect()
    }

    /// Counts the connections of the generation to these ports, for [`Child::open`]. Blocks.
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever calls it is asked instead: each of these is disallowed itself"
    )]
    pub(super) fn count_connections(&self, ports: &BTreeSet<u16>) {
        let holders = self.holders().unwrap_or_default();
        let connected = ports.iter().filter_map(|&port| sock_diag::connections(port).ok()).flatten();
        let open = connected.filter(|inode| holders.contains_key(inode)).count();
        self.open.store(open, Ordering::Relaxed);
    }

    /// The number of connections at the last count.
    pub(super) fn open(&self) -> &Arc<AtomicUsize> {
        &self.open
    }

    /// Sends a signal to the first process.
    pub(super) fn signal(&self, signal: Signal) {
        if self.has_ended().is_none() {
            self.process.signal(signal);
        }
    }

    /// Sends a signal to the processes that the first process has left behind, and continues those that are stopped.
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever calls it is asked instead: each of these is disallowed itself"
    )]
    pub(super) fn signal_left(&self, signal: Signal) {
        for left in process_tree::hold(self.members(), || self.members()) {
            left.signal(signal);
            left.signal(Signal::CONT);
        }
    }

    /// Kills the first process, which needs no look at other processes; `false` if the first process has ended.
    pub(super) fn kill_first(&self) -> bool {
        let lives = self.has_ended().is_none();
        if lives {
            self.process.kill();
        }
        lives
    }

    /// Kills all processes of the generation. Blocks for some milliseconds.
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever calls it is asked instead: each of these is disallowed itself"
    )]
    pub(super) fn kill(&self) {
        self.kill_first();
        process_tree::kill(|| self.members());
    }

    /// Kills all processes of the generation, which has not ended in its time. Does not block.
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) fn kill_in_background(self: Arc<Child>) {
        offload::detach(move || {
            // The first process comes first, and without a look at others: /proc may not answer.
            if self.kill_first() || !self.members().is_empty() {
                tracing::warn!(generation = %self.generation, pid = %self.pid, "the generation has not ended in its time, killing it");
                self.kill();
            }
        });
    }

    /// Kills all processes of the generation, and waits until that is done, for [`KILL_MAX`] at most: a process that
    /// cannot be killed in that time hangs in the kernel, and is left to the service manager or container engine that
    /// ends this process.
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    pub(super) async fn killed(self: &Arc<Child>) {
        let child = self.clone();
        let _ = offload::run_within(KILL_MAX, move || child.kill()).await;
    }

    /// How the first process has ended; `None` if it has not.
    pub(super) fn has_ended(&self) -> Option<Ended> {
        *self.ended.borrow()
    }

    /// Waits for the end of the first process. Cancel safe.
    pub(super) fn end(&self) -> impl Future<Output = Option<Ended>> + Send + use<> {
        let mut ended = self.ended.clone();
        // An error means that the reaper is gone, and this process is about to end.
        async move { ended.wait_for(Option::is_some).await.ok().and_then(|ended| *ended) }
    }

    /// Waits until no process of the generation is left. Cancel safe.
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever calls it is asked instead: each of these is disallowed itself"
    )]
    pub(super) async fn gone(self: Arc<Child>) {
        self.end().await;
        loop {
            let child = self.clone();
            match self.lane.run_within(LOOK_MAX, move || child.members().is_empty()).await {
                Ok(false) | Err(Stalled::Late(_)) => {}
                Ok(true) | Err(Stalled::Panicked) => return,
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Registers the task that reads the notifications of the generation, to be aborted when the generation is dropped.
    pub(super) fn is_read_by(&self, task: AbortHandle) {
        *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    pub(super) fn says(&self) -> Option<String> {
        self.says.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn has_said(&self, text: String) {
        *self.says.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    pub(super) fn pings(&self) -> bool {
        self.pings.load(Ordering::Relaxed)
    }

    pub(super) fn was_ready(&self) -> bool {
        self.was_ready.load(Ordering::Relaxed)
    }

    pub(super) fn is_ready(&self) {
        self.was_ready.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_pinged(&self) {
        self.pings.store(true, Ordering::Relaxed);
    }
}

impl Processes for Child {
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever calls it is asked instead: each of these is disallowed itself"
    )]
    fn living(&self) -> BTreeSet<Pid> {
        self.members()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let listening = self.listening.get_mut().unwrap_or_else(PoisonError::into_inner);
        listening.iter().for_each(AbortHandle::abort);
    }
}
