//! Starts a program for a test as a service manager does: arguments, environment, NOTIFY_SOCKET and log.

use super::process::Instance;
use super::seccomp::{self, Refused};
use super::stall::Stalls;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Variables that a service manager sets for a service, and that this harness removes.
const OF_THE_MANAGER: [&str; 6] =
    ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "MAINPID", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// The settings with which a program is started.
#[derive(Clone, Debug)]
pub struct Start {
    program: OsString,
    args: Vec<OsString>,
    /// The index in `args` at which the default `--listen` is inserted, unless `listen` is called.
    default_listen: Option<usize>,
    listens: usize,
    envs: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    hup_blocked: bool,
    user: Option<u32>,
    refused: Vec<Refused>,
    stalls: Option<Stalls>,
    cpus: Option<usize>,
    output: Option<Arc<io::PipeWriter>>,
    errors: Option<Arc<io::PipeWriter>>,
}

impl Start {
    /// `cutover serve --listen 127.0.0.1:0`
    pub fn serve() -> Start {
        Start { default_listen: Some(1), ..Start::program(env!("CARGO_BIN_EXE_cutover")).arg("serve") }
    }

    /// Any program, without arguments.
    pub fn program(path: impl AsRef<OsStr>) -> Start {
        Start {
            program: path.as_ref().into(),
            args: Vec::new(),
            default_listen: None,
            listens: 0,
            envs: Vec::new(),
            directory: None,
            hup_blocked: false,
            user: None,
            refused: Vec::new(),
            stalls: None,
            cpus: None,
            output: None,
            errors: None,
        }
    }

    /// Runs the program by this command, whose words come before it.
    pub fn under<const N: usize>(mut self, words: [&str; N]) -> Start {
        let before = words.into_iter().map(OsString::from).chain([self.program.clone()]);
        self.args.splice(0..0, before);
        self.program = self.args.remove(0);
        self.default_listen = self.default_listen.map(|place| place + N);
        self
    }

    pub fn with_program(mut self, path: impl AsRef<OsStr>) -> Start {
        self.program = path.as_ref().into();
        self
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Start {
        self.args.push(arg.as_ref().into());
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Start {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    /// Appends `--listen address` to the arguments. The first call replaces the default address of `serve`.
    pub fn listen(mut self, address: &str) -> Start {
        self.default_listen = None;
        self.listens += 1;
        self.args(["--listen", address])
    }

    /// Sets the number of addresses on which the program listens, for a program whose arguments do not name them.
    pub fn listens(mut self, addresses: usize) -> Start {
        self.listens = addresses;
        self
    }

    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Start {
        self.envs.push((key.as_ref().into(), value.as_ref().into()));
        self
    }

    pub fn current_dir(mut self, path: impl AsRef<Path>) -> Start {
        self.directory = Some(path.as_ref().into());
        self
    }

    /// Spawns the program, and does not wait for READY=1.
    pub fn spawn(mut self) -> Instance {
        if let Some(place) = self.default_listen {
            let default = ["--listen", "127.0.0.1:0"].map(OsString::from);
            self.args.splice(place..place, default);
            self.listens = 1;
        }
        Instance::watch(self.listens, |notify_path, log| start(self.command(notify_path, log)))
    }

    /// Makes this system call fail with EPERM in the program.
    pub fn refused(mut self, refused: Refused) -> Start {
        self.refused.push(refused);
        self
    }

    /// Lets the test make system calls of the program hang.
    pub fn stalls(mut self, stalls: &Stalls) -> Start {
        self.stalls = Some(stalls.clone());
        self
    }

    /// Restricts the program to the first `cpus` processors.
    pub fn cpus(mut self, cpus: usize) -> Start {
        self.cpus = Some(cpus);
        self
    }

    /// Redirects stdout and stderr to this pipe. The harness then sees no log.
    pub fn output(mut self, output: io::PipeWriter) -> Start {
        self.output = Some(Arc::new(output));
        self
    }

    /// Redirects stderr to this pipe and stdout to /dev/null. The harness then sees no log.
    pub fn errors(mut self, errors: io::PipeWriter) -> Start {
        self.errors = Some(Arc::new(errors));
        self
    }

    /// Runs the program with this user id and the same group id. Requires root.
    pub fn by_user(mut self, user: u32) -> Start {
        self.user = Some(user);
        self
    }

    /// Starts the program with SIGHUP blocked, as a generation starts the next one.
    pub fn hup_blocked(mut self) -> Start {
        self.hup_blocked = true;
        self
    }

    /// Spawns the program, and waits for READY=1 for at most 20 s.
    #[track_caller]
    pub fn ready(self) -> Instance {
        let instance = self.spawn();
        instance.wait_ready();
        instance
    }

    fn command(&self, notify_path: &Path, log: io::PipeWriter) -> Command {
        let mut command = Command::new(&self.program);
        for key in OF_THE_MANAGER {
            command.env_remove(key);
        }
        command
            .args(&self.args)
            .env("NOTIFY_SOCKET", notify_path)
            // Each instance has its own directory for the control socket.
            .env("RUNTIME_DIRECTORY", notify_path.with_file_name("run"))
            .env("CUTOVER_LOG", "info")
            .envs(self.envs.iter().map(|(key, value)| (key, value)))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicate the pipe of the log"))
            .stderr(log);
        if let Some(output) = &self.output {
            let copy = || output.try_clone().expect("duplicate the pipe");
            command.stdout(copy()).stderr(copy());
        }
        if let Some(errors) = &self.errors {
            command.stdout(Stdio::null()).stderr(errors.try_clone().expect("duplicate the pipe"));
        }
        if let Some(cpus) = self.cpus {
            pin(&mut command, cpus);
        }
        if let Some(stalls) = &self.stalls {
            stalls.watch(&mut command);
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        if !self.refused.is_empty() {
            seccomp::refuse(&mut command, &self.refused);
        }
        if self.hup_blocked {
            block_hup(&mut command);
        }
        command
    }
}

#[allow(unsafe_code, reason = "there is no other place for what a child does before exec")]
fn pin(command: &mut Command, cpus: usize) {
    let mut set = CpuSet::new();
    (0..cpus).for_each(|cpu| set.set(cpu));
    let pin = move || Ok(sched_setaffinity(None, &set)?);
    // SAFETY: the closure makes one system call, and does not allocate.
    unsafe { command.pre_exec(pin) };
}

#[allow(unsafe_code, reason = "the standard library empties the mask of a child; only this closure comes after it")]
fn block_hup(command: &mut Command) {
    let block = || {
        let mut set = std::mem::MaybeUninit::uninit();
        // SAFETY: sigemptyset(3) writes the whole set that the valid pointer points to.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: the set is initialised; SIGHUP is a signal.
        unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGHUP) };
        // SAFETY: the call only reads the set. A null pointer means that the old mask is not returned.
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
        Ok(())
    };
    // SAFETY: the closure only calls functions that signal-safety(7) allows, on its own set.
    unsafe { command.pre_exec(block) };
}

/// Consumes the command, and thereby closes our write ends of the log. Otherwise the log would never end.
fn start(mut command: Command) -> Child {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match command.spawn() {
            Ok(child) => return child,
            // A test has just copied the program. A child that another thread has forked meanwhile holds the copy open
            // for writing until the child's exec.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                std::thread::yield_now();
            }
            Err(error) => panic!("spawn {command:?}: {error}"),
        }
    }
}
