//! The start and the end of a supervisor.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use signal_hook_tokio::Signals;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::child::Child;
use super::instance::{Instance, Parts, nobody};
use super::launch::{Launched, launch};
use super::settings::{ReadyWhen, Settings};
use super::unix_listeners::UnixListeners;
use super::{Supervisor, metrics, signals};
use crate::error::{Error, ErrorKind};
use crate::model::event::Phase;
use crate::model::identity::Pid;
use crate::model::unix_address::UnixAddress;
use crate::runtime::control::{Control, ControlTarget};
use crate::runtime::groups::{Groups, Steering, Table};
use crate::runtime::input::Input;
use crate::runtime::instance::{self, Naming};
use crate::runtime::notifier::Notifier;
use crate::runtime::offload::{self, LOOK_MAX};
use crate::runtime::pid_file::PidFile;
use crate::runtime::service_manager::ServiceManager;
use crate::runtime::{group_watch, heartbeat, plan, port_conflicts};
use crate::sys::launch::{ExecutableError, Launch};
use crate::sys::{pidfd_getfd, process_age, reaper};

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::io(ErrorKind::System, what, error)
}

impl Supervisor {
    /// Runs the program, generation after generation, until the last one has ended, and returns its exit code.
    ///
    /// # Errors
    /// If the supervisor cannot start: see [`ErrorKind`].
    #[expect(clippy::disallowed_methods, reason = "before the program is started")]
    pub(super) async fn supervise(mut self) -> Result<u8, Error> {
        let settings = self.settings()?;
        let program = self.launch.running(self.words.clone());
        program.executable().map_err(|why| not_a_program(&program, &why))?;
        let signals = signals::handle().map_err(system("cannot handle signals"))?;
        let reaper = reaper::Reaper::default();
        if std::process::id() != 1
            && let Err(error) = reaper::become_subreaper()
        {
            tracing::warn!(%error, "orphans of the program cannot be adopted");
        }
        signals::reap(reaper.clone()).map_err(system("cannot handle signals"))?;
        let addresses = settings.addresses.clone().unwrap_or_default();
        for &address in &addresses {
            port_conflicts::refuse_others(address, &BTreeSet::new())?;
        }
        let (live_endpoint, endpoints) = watch::channel(nobody());
        let control_target = ControlTarget::changing(endpoints);
        let naming = Naming {
            given: self.config.name.as_deref(),
            first: addresses
                .first()
                .map(ToString::to_string)
                .or_else(|| settings.unix.first().map(UnixAddress::instance_name)),
            control: self.config.control,
        };
        let (name, control) = instance::claim(&naming, &self.launch, &control_target)?;
        let metrics = self.offer_metrics(&control_target).await?;
        let unix = UnixListeners::claim(&settings.unix, &self.config.unix_access, self.config.backlog)?;
        let pid = Pid::new(std::process::id());
        let watchdog = heartbeat::watchdog(&self.launch, pid);
        let service_manager = ServiceManager::new(Notifier::new(self.launch.variable("NOTIFY_SOCKET")), watchdog);
        let groups = Groups::new(Table::watching(&addresses, Steering::of(&self.launch)));
        let parts = Parts { name, settings, program, reaper, groups, unix, addresses, service_manager, live_endpoint };
        let instance = Arc::new(Instance::new(parts));
        if let Err(error) = pidfd_getfd::try_copy() {
            tracing::info!(%error, "the program's listeners cannot be copied, steering by one more listener beside them");
        }
        let pid_file = self.config.pid_file.take().map(PidFile::new);
        let done = self.run_all(&instance, signals, watchdog, pid_file.as_ref()).await;
        if let Some(pid_file) = &pid_file {
            pid_file.remove(pid).await;
        }
        instance.unix.remove_files().await;
        if let Some(metrics) = metrics {
            metrics.abort();
        }
        if let Some(control) = control {
            Control::close(control).await;
        }
        if let Some(terminal) = &instance.terminal {
            terminal.take_back();
        }
        done
    }

    async fn run_all(
        &self,
        instance: &Arc<Instance>,
        signals: Signals,
        watchdog: Option<std::time::Duration>,
        pid_file: Option<&PidFile>,
    ) -> Result<u8, Error> {
        let passing = tokio::spawn(signals::pass_on(signals, instance.clone()));
        let mut over = instance.over.subscribe();
        if let Launched::Over(code) = launch(instance).await? {
            return Ok(code);
        }
        if let Some(pid_file) = pid_file {
            pid_file.write(Pid::new(std::process::id())).await;
        }
        instance.is_ready();
        instance.heartbeat(watchdog, pid_file.cloned());
        // Cannot fail: the sender lives in the instance.
        let code = over.wait_for(Option::is_some).await.ok().and_then(|code| *code);
        passing.abort();
        instance.end_draining().await;
        // Waits for kills that are under way: they would not be completed after this process has ended.
        offload::finished(LOOK_MAX).await;
        Ok(code.unwrap_or_default())
    }

    async fn offer_metrics(
        &self,
        control_target: &ControlTarget,
    ) -> Result<Option<tokio::task::JoinHandle<()>>, Error> {
        let Some(asked) = &self.config.metrics else { return Ok(None) };
        let wrong = |error: io::Error| Error::io(ErrorKind::Address, "cannot offer metrics", error);
        let asked = asked.as_ref().map_err(|error| wrong(io::Error::new(error.kind(), error.to_string())))?;
        let listener = TcpListener::bind(&asked[..]).await.map_err(wrong)?;
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "offering metrics");
        }
        Ok(Some(tokio::spawn(metrics::serve(listener, control_target.clone()))))
    }
}

fn not_a_program(program: &Launch, why: &ExecutableError) -> Error {
    let kind = match program.is_there() {
        true => io::ErrorKind::PermissionDenied,
        false => io::ErrorKind::NotFound,
    };
    Error::io(ErrorKind::Program, why.to_string(), io::Error::from(kind))
}

impl Instance {
    /// Reports that the first generation serves.
    fn is_ready(self: &Arc<Self>) {
        let addresses = self.addresses();
        let live = self.live();
        for live in live.iter() {
            let (generation, pid) = (live.child.generation, live.child.pid);
            let took = process_age::of(pid).ok();
            tracing::info!(%generation, %pid, ?took, ?addresses, phase = %Phase::Serving, "live");
        }
        self.with_service_status(None, ServiceManager::ready);
    }

    /// Ends the generations that still drain: no process would be left that supervises them.
    async fn end_draining(&self) {
        for child in self.draining() {
            let (generation, pid) = (child.generation, child.pid);
            tracing::warn!(%generation, %pid, "killed while it drained, because no generation is left that serves");
            child.killed().await;
        }
    }

    /// Starts a new count of the connections for the next heartbeat; the current heartbeat does not wait for it.
    #[expect(clippy::disallowed_methods, reason = "on threads of runtime/offload.rs")]
    fn count(&self, child: &Arc<Child>) {
        let (child, ports) = (child.clone(), self.ports());
        tokio::spawn(async move {
            let counting = child.clone();
            // If the count fails, the previous number remains.
            let _ = child.lane.run_within(LOOK_MAX, move || counting.count_connections(&ports)).await;
        });
    }

    /// Starts the heartbeats, which go to whichever generation is live.
    fn heartbeat(self: &Arc<Self>, watchdog: Option<std::time::Duration>, pid_file: Option<PidFile>) {
        let (inputs, mut heartbeats) = mpsc::channel(1);
        heartbeat::start(inputs.clone(), watchdog);
        group_watch::start(inputs);
        let instance = self.clone();
        tokio::spawn(async move {
            while let Some(input) = heartbeats.recv().await {
                // Reaps children whose SIGCHLD was missed.
                instance.reaper.reap();
                if let Some(pid_file) = pid_file.clone().filter(PidFile::is_due) {
                    tokio::spawn(async move { pid_file.write(Pid::new(std::process::id())).await });
                }
                if let Some(live) = instance.live() {
                    if matches!(input, Input::Heartbeat) {
                        instance.count(&live.child);
                    }
                    let _ = live.inputs.send(input).await;
                }
            }
        });
    }
}

impl Supervisor {
    /// The settings of all generations, derived from the options of the user.
    fn settings(&mut self) -> Result<Settings, Error> {
        let wrong = |what: String| Error::new(ErrorKind::Config, what);
        let config = &mut self.config;
        if let ReadyWhen::Http(target) = &self.ready {
            if config.probe.is_some() {
                return Err(wrong("--probe and --ready http: cannot be combined: both send the same request".into()));
            }
            config.probe = Some(target.clone());
            config.probe_timeout = config.ready_timeout;
        }
        self.config.check()?;
        instance::check(self.config.name.as_deref())?;
        let stop_signal = super::settings::signal(&self.stop_signal);
        let stop_signal = stop_signal.ok_or_else(|| wrong(format!("{} is no signal", self.stop_signal)))?;
        let (addresses, unix) = self.addresses()?;
        let needs = plan::plan(&self.config)?;
        if let ReadyWhen::Delay(time) = self.ready
            && time >= needs.ready
        {
            return Err(wrong(format!(
                "--ready delay:{time:?} is not shorter than --ready-timeout {:?}, after which a generation is given up",
                needs.ready
            )));
        }
        if addresses.is_none() && (needs.probe.is_some() || self.ready == ReadyWhen::Notify && needs.needs_steering()) {
            return Err(wrong("a probe needs to know where the program listens: --listen ADDR".into()));
        }
        if addresses.is_none() && !unix.is_empty() && self.ready == ReadyWhen::Listening {
            let why = "it cannot be seen whether a program listens on a Unix socket that it is given: --ready notify or delay:TIME";
            return Err(wrong(why.into()));
        }
        Ok(Settings {
            plan: needs,
            ready: self.ready.clone(),
            target: plan::target(&self.config)?,
            stop_signal,
            preflight: self.preflight.clone(),
            addresses,
            unix,
        })
    }
}
