//! `deploy/deploy.sh`: a good binary goes live under load, a bad one leaves everything as it was.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::http_get;
use crate::support::load::{Load, Mode, Plan};
use crate::support::process::{Instance, Start};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/deploy.sh");
const REAL: &str = env!("CARGO_BIN_EXE_cutover");
const SOON: Duration = Duration::from_secs(20);

/// The files of a deploy, in a folder whose name has spaces.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::Builder::new().prefix("cutover it deploy ").tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn pid_file(&self) -> PathBuf {
        self.path("server.pid")
    }

    fn installed(&self) -> PathBuf {
        self.path("server")
    }

    fn previous(&self) -> PathBuf {
        self.path("server.previous")
    }

    /// An executable file of this text.
    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("write");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("make executable");
        path
    }

    /// The real program, told from others by what follows its end.
    fn build(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::copy(REAL, &path).expect("copy the program");
        let mut file = OpenOptions::new().append(true).open(&path).expect("open the copy");
        file.write_all(name.as_bytes()).expect("append");
        path
    }

    /// Begins `deploy.sh OPTIONS --pid-file … new installed`.
    fn begin(&self, new: &Path, options: &[&str]) -> Child {
        self.command(new, options).spawn().expect("spawn deploy.sh")
    }

    fn command(&self, new: &Path, options: &[&str]) -> Command {
        let mut command = deploy_sh(options);
        command.arg("--pid-file").arg(self.pid_file()).arg(new).arg(self.installed());
        command
    }

    fn deploy(&self, new: &Path, options: &[&str]) -> Ended {
        end(self.begin(new, options))
    }

    /// No temporary file is left.
    #[track_caller]
    fn assert_tidy(&self) {
        let entries = fs::read_dir(self.0.path()).expect("read the folder");
        let names = entries.map(|entry| entry.expect("read the folder").file_name());
        let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("server.")).collect();
        let expected = ["server.pid", "server.pid.lock", "server.previous"].map(OsStr::new);
        assert!(left.iter().all(|name| expected.contains(&name.as_os_str())), "left over: {left:?}");
    }
}

/// With a deadline.
fn deploy_sh(options: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["60", SCRIPT]).args(options);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

fn end(child: Child) -> Ended {
    let Output { status, stdout, stderr } = child.wait_with_output().expect("wait for deploy.sh");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Ended { code: status.code(), out: text(stdout), err: text(stderr) }
}

/// Without telling the contents: they are large.
#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    assert!(read(one) == read(other), "{} differs from {}", one.display(), other.display());
}

/// A server that runs from the installed path.
struct Site {
    server: Instance,
    files: Files,
}

impl Site {
    fn start(options: &[&str]) -> Site {
        let files = Files::new();
        fs::copy(REAL, files.installed()).expect("copy the program");
        let start = Start::serve().with_program(files.installed()).arg("--pid-file").arg(files.pid_file());
        Site { server: start.args(options).ready(), files }
    }

    fn load(&self) -> Load {
        let load = Plan::new([self.server.addr()], 8, Mode::Close).start();
        load.wait_answered(10, SOON);
        load
    }

    /// As the PID file says.
    fn live(&self) -> u32 {
        let text = fs::read_to_string(self.files.pid_file()).expect("read the PID file");
        text.trim().parse().expect("a number")
    }

    /// Deploys a build that works, and the live process is another one then.
    #[track_caller]
    fn deploys(&self, name: &str) {
        let (build, before, old) = (self.files.build(name), self.files.path("before"), self.live());
        fs::copy(self.files.installed(), &before).expect("copy what is installed");
        let ended = self.files.deploy(&build, &[]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_ne!(self.live(), old);
        assert_eq!(ended.out, format!("pid {old} -> {}\n", self.live()));
        let page = http_get(self.server.addr(), "/").expect("an answer");
        assert!(page.contains(&format!("pid {}\n", self.live())), "{page}");
        assert_same(&self.files.installed(), &build);
        assert_same(&self.files.previous(), &before);
        self.files.assert_tidy();
    }

    /// Everything is as it was before a deploy of a bad file.
    #[track_caller]
    fn assert_unchanged(&self, live: u32, ended: &Ended) {
        assert_eq!(ended.code, Some(75), "{ended:?}");
        assert!(ended.err.contains(&format!("process {live} serves on")), "{ended:?}");
        assert_eq!(self.live(), live);
        assert_same(&self.files.installed(), Path::new(REAL));
        assert!(!self.files.previous().exists(), "nothing was deployed before");
        self.files.assert_tidy();
    }
}

#[test]
fn good_binaries_go_live_and_nothing_is_lost() {
    let site = Site::start(&[]);
    let mode = Permissions::from_mode(0o750);
    fs::set_permissions(site.files.installed(), mode.clone()).expect("change the mode");
    let load = site.load();
    site.deploys("build 2");
    load.wait_generation(2, SOON);
    site.deploys("build 3");
    load.wait_generation(3, SOON);
    load.stop().assert_nothing_lost();
    let after = fs::metadata(site.files.installed()).expect("installed").permissions();
    assert_eq!(after.mode() & 0o7777, mode.mode(), "the mode of the file before");
}

/// A file of this text fails, and then a good one works; in all that time nothing is lost.
fn bad(text: &str, server: &[&str], deploy: &[&str]) {
    let site = Site::start(server);
    let load = site.load();
    let live = site.live();
    let ended = site.files.deploy(&site.files.script("bad", text), deploy);
    site.assert_unchanged(live, &ended);
    // Seen at once, where the kernel lists the children of a process (CONFIG_PROC_CHILDREN).
    if Path::new("/proc/thread-self/children").exists() {
        assert!(ended.err.contains("ended before it was ready"), "{ended:?}");
    }
    site.deploys("build 2");
    load.wait_generation(3, SOON);
    load.stop().assert_nothing_lost();
}

#[test]
fn one_that_exits_at_once() {
    bad("#!/bin/sh\nexit 1\n", &[], &[]);
}

#[test]
fn one_that_is_no_program() {
    bad("\0garbage\0", &[], &[]);
}

#[test]
fn one_that_hangs() {
    bad(HANGS, &["--ready-timeout", "1s"], &["--timeout", "5"]);
}

const HANGS: &str = "#!/bin/sh\nexec sleep 1000\n";

#[test]
fn one_that_hangs_longer_than_the_deploy_waits() {
    let site = Site::start(&[]);
    let live = site.live();
    let ended = site.files.deploy(&site.files.script("bad", HANGS), &["--timeout", "1"]);
    site.assert_unchanged(live, &ended);
    assert!(ended.err.contains("no other generation was live after 1 s"), "{ended:?}");
}

#[test]
fn an_interrupted_deploy_puts_the_old_binary_back() {
    let site = Site::start(&[]);
    let live = site.live();
    let deploy = site.files.begin(&site.files.script("bad", HANGS), &[]);
    site.server.wait_log("spawned", SOON);
    // timeout(1) passes it on.
    let pid = Pid::from_child(&deploy);
    kill_process(pid, Signal::TERM).expect("signal deploy.sh");
    let ended = end(deploy);
    site.assert_unchanged(live, &ended);
    assert!(ended.err.contains("interrupted"), "{ended:?}");
}

#[test]
fn a_server_that_dies_meanwhile_gets_its_old_binary_back() {
    let site = Site::start(&[]);
    let deploy = site.files.begin(&site.files.script("bad", HANGS), &[]);
    site.server.wait_log("spawned", SOON);
    site.server.signal(site.live(), Signal::KILL);
    let ended = end(deploy);
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert_same(&site.files.installed(), Path::new(REAL));
    site.files.assert_tidy();
}

/// Of a reload that somebody else began before, the generation is spawned from the old binary.
#[test]
fn a_reload_that_is_under_way_is_waited_for() {
    let site = Site::start(&[]);
    let hold = site.files.script("hold", "");
    // Bash, because it can keep argv[0], by which the generation after it is found.
    let slow = "#!/bin/bash\nwhile [ -e \"${0%/*}/hold\" ]; do sleep 0.05; done\n";
    let slow = site.files.script("slow", &format!("{slow}exec -a \"$0\" '{REAL}' \"$@\"\n"));
    fs::rename(slow, site.files.installed()).expect("put it in place");
    let load = site.load();
    site.server.hup();
    site.server.wait_log("spawned generation=2", SOON);
    let build = site.files.build("build 3");
    let deploy = site.files.begin(&build, &[]);
    site.server.wait_log("reload refused", SOON);
    fs::remove_file(hold).expect("let it go on");
    let ended = end(deploy);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    load.wait_generation(3, SOON);
    load.stop().assert_nothing_lost();
    assert_same(&site.files.installed(), &build);
}

/// `path`: what both find their tools by.
fn two_at_once(path: Option<&Path>) {
    let site = Site::start(&[]);
    let load = site.load();
    let builds = ["build 2", "build 3"].map(|name| site.files.build(name));
    let deploys = builds.each_ref().map(|build| {
        let mut command = site.files.command(build, &[]);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        command.spawn().expect("spawn deploy.sh")
    });
    let ended = deploys.map(end);
    assert!(ended.iter().all(|ended| ended.code == Some(0)), "{ended:?}");
    load.wait_generation(3, SOON);
    load.stop().assert_nothing_lost();
    // Each tells of one step of the two.
    let mut steps: Vec<Vec<&str>> = ended.iter().map(|ended| ended.out.split_whitespace().collect()).collect();
    steps.sort_by_key(|words| words[1] != site.server.first_pid().to_string());
    assert_eq!(steps[0][3], steps[1][1], "{ended:?}");
    assert_eq!(steps[1][3], site.live().to_string(), "{ended:?}");
    let last = usize::from(ended[1].out.trim().ends_with(&format!(" {}", site.live())));
    assert_same(&site.files.installed(), &builds[last]);
    assert_same(&site.files.previous(), &builds[1 - last]);
    site.files.assert_tidy();
}

#[test]
fn two_at_once_go_one_after_the_other() {
    two_at_once(None);
}

#[test]
fn two_at_once_where_there_is_no_flock() {
    let tools = Files::new();
    let path = std::env::var_os("PATH").expect("PATH");
    for tool in ["cat", "chmod", "chown", "cp", "ln", "mkdir", "mv", "rm", "rmdir", "sleep", "stat", "timeout"] {
        let found = std::env::split_paths(&path).map(|folder| folder.join(tool)).find(|file| file.exists());
        symlink(found.expect(tool), tools.path(tool)).expect("a symlink");
    }
    two_at_once(Some(tools.0.path()));
}

/// Nothing is swapped where nothing runs.
#[test]
fn without_a_server_nothing_is_changed() {
    let mut stranger = Command::new("sleep").arg("1000").spawn().expect("spawn sleep");
    let mut dead = Command::new("true").spawn().expect("spawn true");
    dead.wait().expect("wait for true");
    for pid in ["".into(), "0\n".into(), "-1\n".into(), "x\n".into(), dead.id().to_string(), stranger.id().to_string()]
    {
        let files = Files::new();
        let (new, old) = (files.script("new", "new"), files.script("server", "old"));
        let missing = files.deploy(&new, &[]);
        fs::write(files.pid_file(), &pid).expect("write the PID file");
        for ended in [missing, files.deploy(&new, &[])] {
            assert_eq!(ended.code, Some(69), "PID file {pid:?}: {ended:?}");
            assert!(ended.err.contains("nothing was changed"), "{ended:?}");
        }
        assert_eq!(fs::read(old).expect("installed"), b"old");
        let left = fs::read_dir(files.0.path()).expect("the folder").count();
        assert_eq!(left, 3, "something was left beside the two binaries and the PID file");
    }
    assert!(stranger.try_wait().expect("wait for sleep").is_none(), "SIGHUP went to a stranger");
    stranger.kill().expect("kill sleep");
    stranger.wait().expect("wait for sleep");
}

#[test]
fn wrong_usage() {
    let wrong: [&[&str]; 13] = [
        &[],
        &["/bin/true", "/bin/true"],
        &["--pid-file"],
        &["--pid-file", "/nowhere"],
        &["--pid-file", "/nowhere", "/bin/true"],
        &["--pid-file", "/nowhere", "/bin/true", "/bin/true", "/bin/true"],
        &["--pid-file", "", "/bin/true", "/bin/true"],
        &["--pid-file", "/nowhere", "/nowhere", "/bin/true"],
        &["--pid-file", "/nowhere", "/etc/passwd", "/bin/true"],
        &["--pid-file", "/nowhere", "/bin", "/bin/true"],
        &["--pid-file", "/nowhere", "/bin/true", "/nowhere"],
        &["--pid-file", "/nowhere", "--timeout", "08", "/bin/true", "/bin/true"],
        &["--pid-file", "/nowhere", "--frobnicate", "/bin/true", "/bin/true"],
    ];
    for arguments in wrong {
        let ended = end(deploy_sh(arguments).spawn().expect("spawn deploy.sh"));
        assert_eq!(ended.code, Some(64), "{arguments:?}: {ended:?}");
        assert!(ended.err.contains("usage: deploy.sh") && ended.out.is_empty(), "{arguments:?}: {ended:?}");
    }
}

#[test]
fn the_script_is_clean() {
    for check in [["sh", "-n"], ["shellcheck", "--shell=sh"]] {
        match Command::new(check[0]).args([check[1], SCRIPT]).output() {
            Ok(Output { status, stdout, stderr }) => {
                let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
                assert!(status.success(), "{check:?}: {said}");
            }
            Err(error) => println!("skipped: {} cannot be run: {error}", check[0]),
        }
    }
}
