//! A server that was started through ROOT/current, and the operations on it and on its releases.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use tempfile::TempDir;

use super::Way;
use super::systemctl::Systemctl;
use crate::support::group::{has_ended, living};
use crate::support::load::{Load, Mode, Plan};
use crate::support::process::{Instance, Start};

pub(super) const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/deploy.sh");
pub(super) const REAL: &str = env!("CARGO_BIN_EXE_cutover");
pub(super) const SOON: Duration = Duration::from_secs(20);
/// Upper limit for the duration of a deploy.
const DEPLOYED_WITHIN: Duration = Duration::from_secs(60);
pub(super) const HANGS: &str = "#!/bin/sh\nexec sleep 1000\n";

/// The folder of a test's files, with a space in its name; ROOT is in this folder.
pub(super) struct Place(TempDir);

impl Place {
    pub(super) fn new() -> Place {
        let place = Place(tempfile::Builder::new().prefix("cutover it deploy ").tempdir().expect("a folder"));
        fs::create_dir(place.root()).expect("ROOT");
        place
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn root(&self) -> PathBuf {
        self.path("the root")
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.path("server.pid")
    }

    /// The target of `current`: `releases/ID`.
    pub(super) fn current(&self) -> PathBuf {
        fs::read_link(self.root().join("current")).expect("current is a symlink")
    }

    /// The sorted names in ROOT/releases.
    pub(super) fn releases(&self) -> Vec<String> {
        names_in(&self.root().join("releases"))
    }

    /// A folder to deploy, with this script as `server`, or without a `server`.
    pub(super) fn folder(&self, name: &str, script: Option<&str>) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir(&folder).expect("a folder");
        if let Some(script) = script {
            write_script(&folder.join("server"), script);
        }
        fs::write(folder.join("zz last"), name).expect("write");
        folder
    }

    /// A folder to deploy that works. Its name identifies the server.
    pub(super) fn good(&self, name: &str) -> PathBuf {
        self.folder(name, Some(&works(name)))
    }

    pub(super) fn command(&self, options: &[&str], new: &Path) -> Command {
        let mut command = Command::new(SCRIPT);
        command.arg("--root").arg(self.root()).args(options).arg(new).current_dir(self.0.path());
        command
    }

    /// Asserts that no temporary file is left.
    #[track_caller]
    pub(super) fn assert_tidy(&self) {
        let known = [".lock", "current", "releases"];
        let left: Vec<_> = names_in(&self.root()).into_iter().filter(|name| !known.contains(&name.as_str())).collect();
        assert!(left.is_empty(), "left in ROOT: {left:?}");
        let hidden: Vec<_> = self.releases().into_iter().filter(|name| name.starts_with('.')).collect();
        assert!(hidden.is_empty(), "left in ROOT/releases: {hidden:?}");
    }
}

/// A script whose server keeps argv[0], by which the next generation is found; Bash can set argv[0]. RELEASE identifies
/// the release.
pub(super) fn works(name: &str) -> String {
    format!("#!/bin/bash\nRELEASE='{name}' exec -a \"$0\" '{REAL}' \"$@\"\n")
}

/// The same script, but it waits while the file `hold` exists, and then fails if the file `fail` exists.
pub(super) fn works_slowly(name: &str, place: &Place) -> String {
    let (hold, fail, works) = (place.path("hold"), place.path("fail"), works(name));
    let works = works.strip_prefix("#!/bin/bash\n").expect("a script");
    format!(
        "#!/bin/bash\nwhile [ -e '{}' ]; do sleep 0.02; done\n[ ! -e '{}' ] || exit 1\n{works}",
        hold.display(),
        fail.display()
    )
}

/// The program `cutover`; but if the file `meddle` exists, another reload comes first, once.
fn meddles(place: &Place) -> String {
    let (meddle, pid_file) = (place.path("meddle"), place.pid_file());
    format!(
        "#!/bin/sh
if [ \"$1\" = reload ] && [ -e '{}' ]; then
    rm '{}'
    kill -HUP \"$(cat '{}')\"
    until '{REAL}' status --name web --json | grep -q '\"phase\":\"starting\"'; do sleep 0.02; done
fi
exec '{REAL}' \"$@\"\n",
        meddle.display(),
        meddle.display(),
        pid_file.display()
    )
}

pub(super) fn write_script(path: &Path, text: &str) {
    fs::write(path, text).expect("write");
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("make executable");
}

pub(super) fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("read the folder");
    let names = entries.map(|entry| entry.expect("read the folder").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// All files in a folder, with their modes, times and contents.
pub(super) fn tree(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let found = fs::symlink_metadata(&folder).expect("it is there");
        all.insert(folder.clone(), format!("{:o} {} {}", found.mode(), found.mtime(), found.mtime_nsec()));
        for name in names_in(&folder) {
            let path = folder.join(name);
            let found = fs::symlink_metadata(&path).expect("it is there");
            let contents = if found.is_symlink() {
                fs::read_link(&path).expect("a symlink").into_os_string().into_encoded_bytes()
            } else if found.is_dir() {
                folders.push(path);
                continue;
            } else {
                fs::read(&path).expect("a file")
            };
            let (mode, time, nanos) = (found.mode(), found.mtime(), found.mtime_nsec());
            all.insert(path, format!("{mode:o} {time} {nanos} {}", OsStr::from_bytes(&contents).display()));
        }
    }
    all
}

/// A run of deploy.sh. Its output goes to files, so that the test does not wait for other holders of a pipe.
pub(super) struct Deploy {
    child: Child,
    said: TempDir,
}

#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) err: String,
}

impl Deploy {
    pub(super) fn begin(mut command: Command) -> Deploy {
        let said = tempfile::tempdir().expect("a folder");
        let file = |name| fs::File::create(said.path().join(name)).expect("a file");
        // The process group identifies the processes that deploy.sh leaves behind.
        command.process_group(0).stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        Deploy { child: command.spawn().expect("spawn deploy.sh"), said }
    }

    fn said(&self, name: &str) -> String {
        fs::read_to_string(self.said.path().join(name)).expect("UTF-8")
    }

    /// Waits until deploy.sh prints these words on stderr.
    #[track_caller]
    pub(super) fn wait_says(&self, words: &str) {
        let deadline = Instant::now() + SOON;
        while !self.said("err").contains(words) {
            assert!(Instant::now() < deadline, "deploy.sh did not say {words:?} in {SOON:?}: {}", self.said("err"));
            std::thread::yield_now();
        }
    }

    /// Signals the script alone, as kill(1) does.
    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal deploy.sh");
    }

    /// Signals the process group, as a terminal does.
    pub(super) fn signal_group(&self, signal: Signal) {
        kill_process_group(Pid::from_child(&self.child), signal).expect("signal the group of deploy.sh");
    }

    pub(super) fn kill(mut self) {
        self.child.kill().expect("kill deploy.sh");
        self.child.wait().expect("our own child");
    }

    #[track_caller]
    pub(super) fn end(mut self) -> Ended {
        let process = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).expect("our own child");
        if !has_ended(&process, DEPLOYED_WITHIN) {
            let _ = self.child.kill();
            panic!("deploy.sh did not end in {DEPLOYED_WITHIN:?}: {}", self.said("err"));
        }
        let left = living(Pid::from_child(&self.child));
        let code = self.child.wait().expect("our own child").code();
        assert!(left.is_empty(), "deploy.sh has left processes: {left:?}: {}", self.said("err"));
        Ended { code, out: self.said("out"), err: self.said("err") }
    }
}

/// A server that runs the release `v1` of ROOT, and the way in which deploy.sh reloads the server.
pub(super) struct Site {
    systemctl: Option<Systemctl>,
    pub(super) server: Arc<Instance>,
    pub(super) place: Place,
    pub(super) way: Way,
}

impl Site {
    pub(super) fn start(way: Way, options: &[&str]) -> Site {
        Site::start_of(way, options, |place| place.good("new v1"))
    }

    /// deploy.sh itself makes `v1`, from the path that `first` returns.
    pub(super) fn start_of(way: Way, options: &[&str], first: impl FnOnce(&Place) -> PathBuf) -> Site {
        let place = Place::new();
        let first = first(&place);
        let ended = Deploy::begin(place.command(&["--pid-file", "server.pid", "--release", "v1"], &first)).end();
        assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{ended:?}");
        assert!(ended.err.contains("start the server through it"), "{ended:?}");
        let start = Start::serve().with_program(place.root().join("current/server")).args(["--name", "web"]);
        let server = start.arg("--pid-file").arg(place.pid_file()).args(options).ready();
        let server = Arc::new(server);
        let meddler = place.path("meddler");
        write_script(&meddler, &meddles(&place));
        let reload = format!("'{}' reload --name web", meddler.display());
        let systemctl = match way {
            Way::PidFile | Way::Name => None,
            Way::UnitHup => Some(Systemctl::of(&server, "kill -HUP $MAINPID")),
            Way::UnitWaits => Some(Systemctl::of(&server, &reload)),
        };
        Site { systemctl, server, place, way }
    }

    pub(super) fn load(&self) -> Load {
        let load = Plan::new([self.server.addr()], 4, Mode::Close).start();
        load.wait_answered(10, SOON);
        load
    }

    /// The PID in the PID file.
    pub(super) fn live(&self) -> u32 {
        let text = fs::read_to_string(self.place.pid_file()).expect("read the PID file");
        text.trim().parse().expect("a number")
    }

    /// Reloads the server without deploy.sh.
    #[track_caller]
    pub(super) fn reload(&self) {
        let deadline = Instant::now() + SOON;
        // The notification of the service manager may come later than the PID file.
        while self.server.main_pid() != self.live() {
            assert!(Instant::now() < deadline, "{} is not the main process", self.live());
            std::thread::yield_now();
        }
        self.server.reload();
    }

    /// The release of this process, from the variable that its script has set.
    pub(super) fn release_of(pid: u32) -> String {
        let environment = fs::read(format!("/proc/{pid}/environ")).expect("it lives");
        let mut all = environment.split(|byte| *byte == 0);
        let release = all.find_map(|one| one.strip_prefix(b"RELEASE=")).expect("it has a release");
        String::from_utf8_lossy(release).into_owned()
    }

    pub(super) fn command(&self, options: &[&str], new: &Path) -> Command {
        let mut all = match self.way {
            Way::PidFile => vec!["--pid-file", "server.pid"],
            Way::Name => vec!["--name", "web", "--cutover", "./meddler"],
            Way::UnitHup | Way::UnitWaits => vec!["--unit", "web.service"],
        };
        all.extend(options);
        let mut command = self.place.command(&all, new);
        command.env_remove("RUNTIME_DIRECTORY");
        if self.way == Way::Name {
            command.env("RUNTIME_DIRECTORY", self.server.directory().join("run"));
        }
        if let Some(systemctl) = &self.systemctl {
            command.env("PATH", path_with(systemctl.folder()));
        }
        command
    }

    pub(super) fn begin(&self, options: &[&str], new: &Path) -> Deploy {
        Deploy::begin(self.command(options, new))
    }

    #[track_caller]
    pub(super) fn deploy(&self, options: &[&str], new: &Path) -> Ended {
        self.begin(options, new).end()
    }

    /// Deploys a release that works, and asserts that the release is live.
    #[track_caller]
    pub(super) fn deploys(&self, id: &str) {
        let old = self.live();
        let ended = self.deploy(&["--release", id], &self.place.good(&format!("new {id}")));
        self.assert_live(id, &ended);
        assert_ne!(self.live(), old);
    }

    #[track_caller]
    pub(super) fn assert_live(&self, id: &str, ended: &Ended) {
        assert_eq!((ended.code, &ended.out), (Some(0), &format!("{id} is live\n")), "{ended:?}");
        assert_eq!(self.place.current(), Path::new("releases").join(id));
        assert_eq!(Site::release_of(self.live()), format!("new {id}"));
        self.place.assert_tidy();
    }

    /// Asserts that the deploy of `bad` has failed: `v1` is current, its process serves on, and `bad` is kept aside.
    #[track_caller]
    pub(super) fn assert_failed(&self, live: u32, ended: &Ended) {
        assert_eq!((ended.code, ended.out.as_str()), (Some(75), ""), "{ended:?}");
        assert!(ended.err.contains(&format!("process {live} serves on")), "{ended:?}");
        assert_eq!((self.live(), self.server.main_pid()), (live, live), "{ended:?}");
        self.assert_flipped_back();
    }

    #[track_caller]
    pub(super) fn assert_flipped_back(&self) {
        assert_eq!(self.place.current(), Path::new("releases/v1"));
        assert_eq!(self.place.releases(), ["bad.failed", "v1"]);
        self.place.assert_tidy();
    }
}

pub(super) fn path_with(folder: &Path) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").expect("PATH");
    std::env::join_paths(std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path))).expect("joined")
}
