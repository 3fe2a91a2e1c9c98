//! A server whose outsiders do not answer, observed through its clients only.

use std::io::{self, PipeReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionbio;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::app::{App, Options};
use crate::support::http_get;
use crate::support::load::{Answer, Load, Mode, Plan};
use crate::support::process::{Instance, Start};
use crate::support::run::wait_until;
use crate::support::script::Script;
use crate::support::stall::{Stall, Stalls};

/// A reload takes milliseconds; with all outsiders stalled a few seconds, because the server waits until each timeout.
const RELOADED: Duration = Duration::from_secs(30);
/// Upper limit for a stop, with a drain of [`DRAIN`] and all timeouts at the end.
pub(super) const STOPPED: Duration = Duration::from_secs(30);
pub(super) const DRAIN: Duration = Duration::from_secs(2);
/// Interval between two requests for a page: no event shows the state of a server whose log is not read.
const LOOK: Duration = Duration::from_millis(5);
/// A program that leaves an orphan behind, which `cutover run` adopts, and then serves.
pub(super) const ORPHAN: &str = "if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
os.wait()
serve(sys.argv[1])";

/// The kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    Serve,
    Library,
    Run,
}

/// An outsider that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outsider {
    /// No process reads NOTIFY_SOCKET, and its queue is full.
    Manager,
    /// No process reads stderr (and stdout, where that is the program's own), and the pipe is full.
    Log,
    /// The disk of the PID file.
    PidFile,
    /// The disk of the control socket.
    ControlFolder,
    /// The memory of other processes, as /proc shows it.
    Memory,
}

impl Outsider {
    pub(super) const ALL: [Outsider; 5] =
        [Outsider::Manager, Outsider::Log, Outsider::PidFile, Outsider::ControlFolder, Outsider::Memory];
}

/// A server, its clients, and its stalled outsiders.
pub(super) struct Bench {
    face: Face,
    instance: Instance,
    address: SocketAddr,
    load: Load,
    stalls: Stalls,
    folder: TempDir,
    _script: Option<Script>,
    _app: Option<App>,
    manager: Option<UnixDatagram>,
    log: Option<PipeReader>,
    outsiders: Vec<Outsider>,
}

/// The start options of a server.
pub(super) struct Setup {
    face: Face,
    cpus: usize,
    outsiders: Vec<Outsider>,
    folder: TempDir,
    address: SocketAddr,
    /// The host part of `--listen`.
    host: &'static str,
    program: PathBuf,
    args: Vec<String>,
    script: &'static str,
    options: Options,
    log_level: &'static str,
}

impl Setup {
    pub(super) fn new(face: Face, cpus: usize) -> Setup {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["disk", "run", "bin"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        Setup {
            face,
            cpus,
            outsiders: Vec::new(),
            folder,
            address: address(),
            host: "127.0.0.1",
            program: env!("CARGO_BIN_EXE_cutover").into(),
            args: Vec::new(),
            script: "serve(sys.argv[1])",
            options: Options::default(),
            log_level: "info",
        }
    }

    /// Sets the log level that [`Bench::has_handed_over`] needs.
    pub(super) fn debug(mut self) -> Setup {
        self.log_level = "debug";
        self
    }

    /// These outsiders stall as soon as the server answers.
    pub(super) fn without(mut self, outsiders: &[Outsider]) -> Setup {
        self.outsiders = outsiders.into();
        self
    }

    /// Further options of the command line.
    pub(super) fn args(mut self, args: &[&str]) -> Setup {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    pub(super) fn listen_on(mut self, host: &'static str) -> Setup {
        self.host = host;
        self
    }

    /// Starts the server by a path of its own, in [`Bench::bin`].
    pub(super) fn deployed(mut self) -> Setup {
        let path = self.folder.path().join("bin/server");
        std::os::unix::fs::symlink(&self.program, &path).expect("a symlink");
        self.program = path;
        self
    }

    /// The program of `cutover run`: the text that follows `script.py`.
    pub(super) fn script(mut self, script: &'static str) -> Setup {
        self.script = script;
        self
    }

    pub(super) fn options(mut self, options: Options) -> Setup {
        self.options = options;
        self
    }

    /// Starts the server, and waits until the server is live.
    pub(super) fn start(self) -> Bench {
        let stalls = Stalls::default();
        let pid_file = self.folder.path().join("disk/pid");
        let script = (self.face == Face::Run).then(|| Script::new(self.script));
        let app = (self.face == Face::Library).then(|| {
            let (listen, pid_file) = (vec![self.address.to_string()], Some(pid_file.clone()));
            App::new(Options { listen, pid_file, drain_timeout: DRAIN, ..self.options.clone() })
        });
        let start = match (&app, &script) {
            (Some(app), _) => app.prepare(),
            (None, Some(script)) => {
                let start = self.program("run").args(["--stop-timeout", "2s", "--"]);
                start.args(script.at(self.address))
            }
            (None, None) => self.program("serve").args(["--drain-timeout", "2s"]),
        };
        let start = start.env("CUTOVER_LOG", self.log_level);
        let start = start.cpus(self.cpus).env("RUNTIME_DIRECTORY", self.folder.path().join("run"));
        // A socket and a pipe that nobody reads need no system call to be stalled.
        let is_unread = |outsider: &Outsider| matches!(outsider, Outsider::Manager | Outsider::Log);
        let needs_stalls = self.outsiders.is_empty() || !self.outsiders.iter().all(is_unread);
        let start = if needs_stalls { start.stalls(&stalls) } else { start };
        let (start, manager) = self.with_manager(start);
        let (start, log) = self.with_log(start);
        let instance = start.spawn();
        answers(self.address);
        // The server writes the file when the first generation is live.
        wait_until("the PID file is written", || pid_file.exists());
        let plan = Plan::new([self.address], 4, Mode::Close);
        let load = Plan { answer: Answer::Pid, pause: Duration::from_millis(20), ..plan }.start();
        load.wait_answered(20, RELOADED);
        let Setup { face, outsiders, folder, address, .. } = self;
        let (_script, _app) = (script, app);
        let bench = Bench { face, instance, address, load, stalls, folder, log, outsiders, _script, _app, manager };
        bench.stalls.begin(bench.outsiders.iter().filter_map(|outsider| bench.stall(*outsider)));
        bench
    }

    fn program(&self, verb: &str) -> Start {
        let listen = format!("{}:{}", self.host, self.address.port());
        Start::program(&self.program)
            .args([verb, "--name", "it", "--pid-file"])
            .arg(self.folder.path().join("disk/pid"))
            .args(["--listen", &listen])
            .args(&self.args)
    }

    fn with_manager(&self, start: Start) -> (Start, Option<UnixDatagram>) {
        if !self.outsiders.contains(&Outsider::Manager) {
            return (start, None);
        }
        let path = self.folder.path().join("notify");
        let manager = full_queue(&path);
        (start.env("NOTIFY_SOCKET", path), Some(manager))
    }

    fn with_log(&self, start: Start) -> (Start, Option<PipeReader>) {
        if !self.outsiders.contains(&Outsider::Log) {
            return (start, None);
        }
        let (read, write) = full_pipe();
        // The server of the library is the test binary, whose stdout stays its own.
        let start = if self.face == Face::Library { start.errors(write) } else { start.output(write) };
        (start, Some(read))
    }
}

impl Bench {
    /// Starts a server whose outsiders stall as soon as the server answers.
    pub(super) fn start(face: Face, cpus: usize, outsiders: &[Outsider]) -> Bench {
        Setup::new(face, cpus).without(outsiders).start()
    }

    /// Begins one more stall.
    pub(super) fn stalls(&self, stall: Option<Stall>) {
        self.stalls.begin(stall);
    }

    /// The live generation, and a connection to it with an incomplete request.
    pub(super) fn held(&self) -> (u32, TcpStream) {
        let live = self.live();
        let mut held = TcpStream::connect(self.address).expect("connected");
        held.write_all(b"GET / HTTP/1.1\r\n").expect("sent");
        (live, held)
    }

    /// Waits until this generation has completed its handover: its listeners are closed, and the next generation knows
    /// that.
    pub(super) fn has_handed_over(&self, generation: u32) {
        let next = generation + 1;
        let line = format!("the previous generation has closed its listeners generation={next}");
        self.instance.wait_log(&line, RELOADED);
    }

    pub(super) fn signal(&self, pid: u32, signal: Signal) {
        self.instance.signal(pid, signal);
    }

    /// The folder of the program that [`Setup::deployed`] starts.
    pub(super) fn bin(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    /// Sends SIGHUP. The log must have the reason why the reload has failed, and the process that answered before must
    /// still answer.
    pub(super) fn refuses(&self, why: &str) {
        let (before, mark) = (self.live(), self.instance.mark());
        self.hup(before);
        let line = self.instance.wait_log_after(mark, "reload failed", RELOADED);
        assert!(line.contains(why), "{:?}: {line}", self.face);
        self.load.wait_answered(20, RELOADED);
        assert_eq!(self.live(), before, "{:?}: another generation answers", self.face);
    }

    fn hup(&self, live: u32) {
        let target = if self.face == Face::Run { self.instance.first_pid() } else { live };
        self.instance.signal(target, Signal::HUP);
    }

    fn stall(&self, outsider: Outsider) -> Option<Stall> {
        match outsider {
            Outsider::PidFile => Some(Stall::Files(self.folder.path().join("disk"))),
            Outsider::ControlFolder => Some(Stall::Files(self.folder.path().join("run"))),
            Outsider::Memory => Some(Stall::Memory),
            Outsider::Manager | Outsider::Log => None,
        }
    }

    /// The stalled paths that the server has accessed.
    pub(super) fn met(&self) -> Vec<String> {
        self.stalls.caught()
    }

    /// Ends all stalls.
    pub(super) fn ends_stalls(&self) {
        self.stalls.end();
    }

    /// Reads the pending notifications, as a manager that reads again.
    pub(super) fn notifications(&self) -> Vec<String> {
        let manager = self.manager.as_ref().expect("a manager");
        manager.set_nonblocking(true).expect("set");
        let mut bytes = [0; 4096];
        std::iter::from_fn(|| {
            manager.recv(&mut bytes).ok().map(|count| String::from_utf8_lossy(&bytes[..count]).into())
        })
        .collect()
    }

    /// The process that listens at the control socket.
    pub(super) fn controlled_by(&self) -> Option<u32> {
        let run = std::fs::read_dir(self.folder.path().join("run")).expect("a folder");
        let path = run.filter_map(|file| Some(file.ok()?.path())).find(|path| path.extension().is_some());
        let socket = UnixStream::connect(path?).ok()?;
        let peer = rustix::net::sockopt::socket_peercred(&socket).expect("a peer");
        u32::try_from(peer.pid.as_raw_pid()).ok()
    }

    /// Asserts that the process of this generation was spawned, and is gone.
    pub(super) fn is_gone(&self, generation: u32) {
        let line = self.instance.wait_log(&format!("spawned generation={generation} "), RELOADED);
        let pid = line.split_once("pid=").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        self.instance.wait_gone(pid.unwrap_or_else(|| panic!("no pid: {line}")), STOPPED);
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.folder.path().join("disk/pid")
    }

    /// The PID of the process that answers.
    pub(super) fn live(&self) -> u32 {
        answers(self.address)
    }

    /// Sends SIGHUP, and waits until another process answers.
    pub(super) fn reload(&self) {
        let before = self.live();
        self.hup(before);
        let deadline = Instant::now() + RELOADED;
        while self.live() == before {
            if Instant::now() >= deadline {
                let (log, met) = (self.unread_log(), self.met());
                panic!("{:?}: no other generation in {RELOADED:?}; stalled: {met:?}\n{log}", self.face);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The unread content of the log.
    fn unread_log(&self) -> String {
        let Some(log) = &self.log else { return String::new() };
        let mut log = log.try_clone().expect("a copy");
        let (told, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            while let Ok(count @ 1..) = log.read(&mut buffer) {
                if told.send(String::from_utf8_lossy(&buffer[..count]).into_owned()).is_err() {
                    return;
                }
            }
        });
        // The server writes on as soon as the pipe has room.
        std::iter::from_fn(|| lines.recv_timeout(Duration::from_secs(1)).ok()).collect()
    }

    /// Reloads this many times, and then stops; no request may be lost.
    pub(super) fn goes_on(self, reloads: usize) {
        for _ in 0..reloads {
            self.reload();
            self.load.wait_answered(20, RELOADED);
        }
        // `cutover run` writes its files at its start, before the stalls begin.
        for outsider in self.outsiders.iter().filter(|_| self.face != Face::Run) {
            if let Some(Stall::Files(disk)) = self.stall(*outsider) {
                let disk = disk.to_string_lossy().into_owned();
                wait_until("it is met", || self.met().iter().any(|path| path.starts_with(&disk)));
            }
        }
        self.stops();
    }

    /// Sends SIGTERM: all processes must be gone in time, and no request may have been lost before.
    pub(super) fn stops(self) {
        self.stops_but(0);
    }

    /// The same for all processes but this one.
    pub(super) fn stops_but(self, left: u32) {
        let live = self.live();
        let Bench { face, instance, load, .. } = self;
        load.stop().assert_nothing_lost();
        instance.signal(if face == Face::Run { instance.first_pid() } else { live }, Signal::TERM);
        let deadline = Instant::now() + STOPPED;
        for pid in instance.pids().into_iter().filter(|pid| *pid != left) {
            instance.wait_gone(pid, deadline.saturating_duration_since(Instant::now()));
        }
        assert_eq!(page(self.address), None, "{face:?}: somebody answers after the stop");
    }
}

/// An address that no process uses: if the log of a server is not read, nothing shows where the server listens. The
/// ports are below those that the system chooses (`net.ipv4.ip_local_port_range`), and no other test uses them.
fn address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(21_000);
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], NEXT.fetch_add(1, Ordering::Relaxed)));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Waits until a process answers, and returns its PID.
fn answers(address: SocketAddr) -> u32 {
    let deadline = Instant::now() + RELOADED;
    loop {
        if let Some(pid) = page(address) {
            return pid;
        }
        assert!(Instant::now() < deadline, "nobody answers on {address}");
        std::thread::sleep(LOOK);
    }
}

/// The PID in the page, if a process answers.
pub(super) fn page(address: SocketAddr) -> Option<u32> {
    let text = http_get(address, "/").ok()?;
    text.lines().find_map(|line| line.strip_prefix("pid ")?.parse().ok())
}

/// A datagram socket whose queue is full.
fn full_queue(path: &std::path::Path) -> UnixDatagram {
    let (socket, sender) = (UnixDatagram::bind(path).expect("bound"), UnixDatagram::unbound().expect("a socket"));
    sender.set_nonblocking(true).expect("set");
    while sender.send_to(b"STATUS=filler", path).is_ok() {}
    socket
}

/// A pipe that is full.
fn full_pipe() -> (PipeReader, io::PipeWriter) {
    let (read, mut write) = io::pipe().expect("a pipe");
    ioctl_fionbio(&write, true).expect("set");
    while write.write(&[b'x'; 4096]).is_ok() {}
    while write.write(b"x").is_ok() {}
    ioctl_fionbio(&write, false).expect("set");
    (read, write)
}
