//! A real Docker engine with its own network, mount and pid namespaces, shared by all tests of this process. The engine
//! starts in about a second, and ends soon after this process, however this process ends.
//!
//! The published ports of a container are reachable in the engine's network namespace: by [`Engine::in_network`], and
//! by a load that runs there.

mod container;
mod image;
mod processes;

use std::fs::{self, File};
use std::io::PipeWriter;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub use container::Container;
pub use processes::Process;

use super::load::{Load, Plan};
use super::namespace;
use super::systemd::{read_from_start, said, succeeded};
use super::terminal::Terminal;
use super::verb::Verb;

const KEEPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/docker/engine.sh");
const COMPOSE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/compose.yaml");
const UP_WITHIN: Duration = Duration::from_secs(60);
/// The time limit of a command of a test, in seconds. timeout(1) ends a command that takes longer, and exits with 124.
const COMMAND_SECONDS: &str = "120";
/// The polling interval for states that give no event to wait for.
const LOOK: Duration = Duration::from_millis(20);

/// A running engine.
pub struct Engine {
    /// The write end of a pipe. The engine ends when no process has this end open any more.
    _alive: PipeWriter,
    state: PathBuf,
    /// The pid of a process in the engine's mount and network namespaces, in our pid namespace.
    leader: u32,
    network: File,
    images: image::Built,
}

impl Engine {
    /// The engine of this process, which the first call starts. `None` if no engine can be started; the test then
    /// reports that it is skipped, which is a failure in CI.
    #[track_caller]
    pub fn running() -> Option<&'static Engine> {
        static ENGINE: OnceLock<Result<Engine, String>> = OnceLock::new();
        if !rustix::process::geteuid().is_root() {
            super::skip("a Docker engine of its own needs root");
            return None;
        }
        let engine = ENGINE.get_or_init(Engine::start).as_ref();
        engine.map_err(|why| super::skip(&format!("a Docker engine cannot be had: {why}"))).ok()
    }

    fn start() -> Result<Engine, String> {
        let text = |error: std::io::Error| error.to_string();
        let state = tempfile::Builder::new().prefix("cutover-it-docker-").tempdir().map_err(text)?;
        fs::write(state.path().join("daemon.json"), "{}").map_err(text)?;
        let log = tempfile::tempfile().map_err(text)?;
        let output = || log.try_clone().map(Stdio::from).map_err(text);
        let (stdin, alive) = std::io::pipe().map_err(text)?;
        let mut command = Command::new("sh");
        command.arg(KEEPER).arg(state.path()).arg(format!("cutover-it-docker-{}", std::process::id()));
        command.stdin(stdin).stdout(output()?).stderr(output()?);
        // The script has its own process group, so that Ctrl-C ends only this process, whose end then ends the engine.
        command.process_group(0);
        let mut keeper = command.spawn().map_err(|error| format!("cannot run {command:?}: {error}"))?;
        // The script removes the folder, because the script may outlive this process.
        let state = state.keep();
        // The command is dropped to close its end of the pipe.
        drop(command);
        await_engine(&mut keeper, &state).map_err(|why| format!("{why}; it said: {}", read_from_start(log)))?;
        let leader = fs::read_to_string(state.join("leader")).map_err(text)?;
        let leader = leader.trim().parse().map_err(|_| format!("no pid: {leader}"))?;
        let network = File::open(format!("/proc/{leader}/ns/net")).map_err(text)?;
        Ok(Engine { _alive: alive, state, leader, network, images: image::Built::default() })
    }

    /// A command of the Docker client, with a time limit.
    pub fn command(&self, words: &[&str]) -> Command {
        client(&self.state, COMMAND_SECONDS, words)
    }

    /// Runs a command of the client to its end, which may be a failure.
    #[track_caller]
    pub fn docker(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("run timeout(1)")
    }

    /// Runs a command of the client, which must succeed. Returns its stdout without trailing white space.
    #[track_caller]
    pub fn must(&self, words: &[&str]) -> String {
        succeeded(words, &self.docker(words))
    }

    /// Starts a container with these options of `docker run`, and with these words as its command.
    #[track_caller]
    pub fn run(&'static self, options: &[&str], image: &str, words: &[&str]) -> Container {
        Container::run(self, options, image, words)
    }

    /// The image of `deploy/Dockerfile`, built as a user builds it, with the program of this source. `None` if the
    /// image to build it in is not available; the test then reports that it is skipped.
    #[track_caller]
    pub fn cutover(&self) -> Option<&str> {
        self.images.cutover(self).map_err(|why| super::skip(&why)).ok()
    }

    /// An image as a user builds it, on a small Debian, with `/cutover` and `/server.pl`, a server without support for
    /// cutover. `None` if the image cannot be built; the test then reports that it is skipped.
    #[track_caller]
    pub fn perl(&self) -> Option<&str> {
        self.images.perl(self).map_err(|why| super::skip(&why)).ok()
    }

    /// Builds an image of this Dockerfile. The build context has the program as `server`.
    #[track_caller]
    pub fn build(&self, name: &str, dockerfile: &str) {
        image::of(self, name, dockerfile);
    }

    /// The statically linked program that the images contain.
    #[track_caller]
    pub fn program(&self) -> PathBuf {
        image::static_program()
    }

    /// An image of a small Debian, with sh, bash, coreutils and perl. `None` if the image cannot be built; the test
    /// then reports that it is skipped.
    #[track_caller]
    pub fn debian(&self) -> Option<&str> {
        self.images.debian(self).map_err(|why| super::skip(&why)).ok()
    }

    /// Runs the Docker client on its own terminal.
    #[track_caller]
    pub fn on_terminal(&self, words: &[&str]) -> Terminal {
        let verb = Verb::by("docker", words[0]).args(&words[1..]);
        let verb = verb.with(|command| {
            let_it_ask(command, &self.state);
            command
        });
        Terminal::run(verb, 100, 40)
    }

    /// A command of docker-compose(1) with `deploy/compose.yaml`, and with a time limit.
    pub fn compose(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args([COMMAND_SECONDS, "docker-compose", "--file", COMPOSE]).args(words).stdin(Stdio::null());
        let_it_ask(&mut command, &self.state);
        command
    }

    /// Polls until the condition holds, for changes that the engine does not announce.
    #[track_caller]
    pub fn wait(&self, what: &str, within: Duration, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + within;
        while !is_so() {
            assert!(Instant::now() < deadline, "not {what} within {within:?}");
            std::thread::sleep(LOOK);
        }
    }

    /// Starts a load whose threads are in the engine's network namespace.
    pub fn load(&self, plan: Plan) -> Load {
        namespace::inside(&self.network, || plan.start())
    }

    /// Runs `act` in the engine's network namespace, and in no other namespace of the engine.
    pub fn in_network<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        namespace::inside(&self.network, act)
    }

    /// The engine's /proc, whose pids are those that the engine reports.
    fn proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/proc", self.leader))
    }
}

fn client(state: &Path, seconds: &str, words: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args([seconds, "docker"]).args(words).stdin(Stdio::null());
    let_it_ask(&mut command, state);
    command
}

/// Sets up a command of a client for this engine, without the user's own settings.
fn let_it_ask(command: &mut Command, state: &Path) {
    command.env("DOCKER_HOST", format!("unix://{}", state.join("socket").display()));
    command.env("DOCKER_CONFIG", state.join("client")).env_remove("DOCKER_CONTEXT");
    // The classic builder, which needs nothing beside the engine.
    command.env("DOCKER_BUILDKIT", "0");
}

fn await_engine(keeper: &mut Child, state: &Path) -> Result<(), String> {
    let deadline = Instant::now() + UP_WITHIN;
    while Instant::now() < deadline {
        if let Some(status) = keeper.try_wait().map_err(|error| error.to_string())? {
            return Err(format!("it ended ({status})"));
        }
        let listens = std::os::unix::net::UnixStream::connect(state.join("socket")).is_ok();
        if listens && client(state, "20", &["version"]).output().is_ok_and(|done| done.status.success()) {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    Err(format!("it was not up in {UP_WITHIN:?}"))
}
