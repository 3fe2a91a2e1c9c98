//! An instance named by its PID file: a verb asks or signals only a process that is proven to be the instance.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::deployed::{Deployed, GREEN};
use crate::support::kept_alive;
use crate::support::process::{Instance, Start};
use crate::support::run::Run;
use crate::support::stranger::Stranger;
use crate::support::verb::{Verb, folder, name};

const SOON: Duration = Duration::from_secs(10);
const VERBS: [&str; 5] = ["status", "reload", "promote", "rollback", "stop"];
const NO_SOCKET: &str = "no control socket in the usual folders lists process";

/// A PID file that the test or the server writes.
struct PidFile(TempDir);

impl PidFile {
    fn new() -> PidFile {
        PidFile(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("server.pid")
    }

    fn names(&self, pid: u32) {
        fs::write(self.path(), format!("{pid}\n")).expect("written");
    }

    /// Sets the file's time back, as if its process had ended long ago and the PID were another process's by now.
    fn is_from_long_ago(&self) {
        let file = File::options().append(true).open(self.path()).expect("it is there");
        file.set_modified(SystemTime::now() - Duration::from_secs(3600)).expect("set");
    }

    fn pid(&self) -> u32 {
        fs::read_to_string(self.path()).expect("it is there").trim().parse().expect("a number")
    }

    fn verb(&self, verb: &str) -> Verb {
        Verb::new(verb).arg("--pid-file").arg(self.path())
    }

    fn verb_within(&self, verb: &str, folder: &Path) -> Verb {
        self.verb(verb).within(folder)
    }
}

#[test]
fn the_control_socket_that_lists_the_process_is_asked() {
    let file = PidFile::new();
    let server = Start::serve().args(["--canary", "50%:1h"]).arg("--pid-file").arg(file.path()).ready();
    // There is another instance, so that the result does not depend on a single one.
    let other = Start::serve().env("RUNTIME_DIRECTORY", folder(&server)).ready();
    let verb = |verb| file.verb_within(verb, &folder(&server));
    // The file is too old for any other proof.
    file.is_from_long_ago();
    let status = verb("status").run().with(0).out;
    assert!(status.contains(&format!("instance {}\n", name(&server))), "{status}");
    let reload = verb("reload").begin();
    reload.wait_out("canary 50 %");
    verb("rollback").run().says("rolled back\n");
    reload.end().with(75);
    let reload = verb("reload").begin();
    reload.wait_out("canary 50 %");
    verb("promote").run().says("promoted\n");
    reload.end().with(0);
    assert_ne!(file.pid(), server.first_pid());
    let ended = verb("stop").run().with(0);
    assert!(ended.out.ends_with(&format!("instance {} is stopped\n", name(&server))), "{ended:?}");
    assert_eq!((server.pids(), other.pids()), (vec![], vec![other.first_pid()]));
}

/// A draining generation still belongs to the instance.
#[test]
fn each_generation_names_the_instance() {
    let (file, server) = (PidFile::new(), Start::serve().args(["--idle-grace", "1h"]).ready());
    file.names(server.first_pid());
    let held = kept_alive(server.addr());
    file.verb_within("reload", &folder(&server)).run().with(0);
    let status = file.verb_within("status", &folder(&server)).run().with(0).out;
    assert!(status.contains("draining") && status.contains("serving"), "{status}");
    drop(held);
    server.wait_gone(server.first_pid(), SOON);
    file.verb_within("status", &folder(&server)).run().fails(69, &[NO_SOCKET]);
}

#[test]
fn a_supervisor_names_the_instance() {
    let file = PidFile::new();
    let own = env!("CARGO_BIN_EXE_cutover");
    let words = [own, "serve", "--listen", "127.0.0.1:0", "--no-control"];
    let running = Run::new(words).with(|start| start.arg("--pid-file").arg(file.path())).ready();
    assert_eq!(file.pid(), running.first_pid());
    let folder = running.directory().join("run");
    let status = file.verb_within("status", &folder).run().with(0).out;
    assert!(status.contains("instance it\n"), "{status}");
    file.names(running.live());
    file.verb_within("stop", &folder).run().with(0);
    assert_eq!(running.pids(), Vec::<u32>::new());
}

#[test]
fn a_file_that_proves_nothing() {
    let (file, server, stranger) = (PidFile::new(), Start::serve().ready(), Stranger::start());
    let all_fail = |words: &[&str]| {
        for verb in VERBS {
            file.verb_within(verb, &folder(&server)).run().fails(69, words);
        }
    };
    all_fail(&["the PID file", "server.pid cannot be read", "No such file"]);
    for text in ["", "0\n", "-1\n", "nobody\n"] {
        fs::write(file.path(), text).expect("written");
        all_fail(&["server.pid names no process"]);
    }
    let mut dead = Command::new("true").spawn().expect("spawn true");
    dead.wait().expect("our own child");
    for pid in [dead.id(), stranger.pid(), std::process::id()] {
        file.names(pid);
        all_fail(&[&format!("{NO_SOCKET} {pid} of"), "server.pid"]);
    }
    // The PID is the server's own, but its socket is in no folder that the verb searches.
    file.names(server.first_pid());
    file.verb_within("stop", file.0.path()).run().fails(69, &[NO_SOCKET]);
    stranger.assert_unheard();
    assert_eq!(server.pids(), [server.first_pid()]);
    assert!(!server.log_contains("reloading"), "{}", server.log());
}

/// A server without a control socket.
fn silent(file: &PidFile) -> Instance {
    Start::serve().arg("--no-control").arg("--pid-file").arg(file.path()).ready()
}

/// The folder of the program that the tests start.
fn root() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_cutover")).parent().expect("a folder")
}

fn reload(file: &PidFile, root: &Path) -> Verb {
    file.verb("reload").arg("--root").arg(root)
}

#[test]
fn without_a_control_socket_the_proven_process_is_signalled() {
    let file = PidFile::new();
    let server = silent(&file);
    let old = file.pid();
    let ended = reload(&file, root()).run();
    ended.says(&format!("process {} is live (before: process {old})\n", file.pid()));
    assert_ne!(file.pid(), old);
    server.wait_log("reload done: generation 2 is live", SOON);
    // A process that has a control socket is asked through it, without any other proof.
    let other = Start::serve().ready();
    file.names(other.first_pid());
    let ended = reload(&file, Path::new("/nowhere")).within(&folder(&other)).run().with(0);
    assert!(ended.out.contains("generation 2 is live"), "{ended:?}");
}

#[test]
fn without_a_proof_nothing_is_signalled() {
    let file = PidFile::new();
    let server = silent(&file);
    let (pid, stranger) = (file.pid(), Stranger::start());
    let fails = |root: &Path, words: &[&str]| reload(&file, root).run().fails(69, &[&[NO_SOCKET], words].concat());
    let of = |pid: u32| format!("process {pid} of {} ", file.path().display());
    fails(file.0.path(), &[&of(pid), "executes /", "and neither that file nor the path by which it was started is in"]);
    fails(Path::new("/nowhere"), &[&of(pid), "cannot be compared with /nowhere"]);
    file.is_from_long_ago();
    fails(root(), &[&of(pid), "began 3", " s after the file was written"]);
    file.names(stranger.pid());
    fails(root(), &[&of(stranger.pid()), "executes /", "python"]);
    let mut sleep = Command::new("sleep").arg("1000").spawn().expect("spawn sleep");
    file.names(sleep.id());
    fails(Path::new("/usr"), &[&of(sleep.id()), "does not handle SIGHUP"]);
    sleep.kill().expect("our own child");
    sleep.wait().expect("our own child");
    fails(Path::new("/usr"), &[&of(sleep.id()), "is gone"]);
    stranger.assert_unheard();
    assert_eq!(server.pids(), [pid]);
    assert!(!server.log_contains("reloading"), "{}", server.log());
}

#[test]
fn a_signalled_server_that_does_not_get_to_another_process() {
    let (file, deployed) = (PidFile::new(), Deployed::new());
    let server = deployed.start("hang").arg("--no-control").arg("--pid-file").arg(file.path()).ready();
    deployed.put(GREEN);
    let pid = file.pid();
    let fails = |root: &Path| reload(&file, root).arg("--timeout").arg("300ms").run();
    fails(root()).fails(75, &["no other process was live after 300ms", &format!("process {pid} serves on")]);
    server.wait_log("spawned generation=2", SOON);
    let waiting = reload(&file, root()).begin();
    server.wait_log("reload refused", SOON);
    server.signal(pid, Signal::KILL);
    waiting.end().fails(69, &[&format!("process {pid} ended before another one was live")]);
}

#[test]
fn wrong_usage() {
    let wrong: [&[&str]; 6] = [
        &["reload", "--root", "/srv"],
        &["reload", "--root", "/srv", "--name", "web"],
        &["reload", "--root", "/srv", "--pid-file", "/nowhere", "--json"],
        &["reload", "--root", "/srv", "--pid-file", "/nowhere", "--drain"],
        &["stop", "--pid-file", "/nowhere", "--name", "web"],
        &["stop", "--pid-file", "/nowhere", "--control", "/nowhere"],
    ];
    for arguments in wrong {
        let ended = Verb::new(arguments[0]).args(&arguments[1..]).run().with(64);
        assert!(ended.out.is_empty() && !ended.err.is_empty(), "{ended:?}");
    }
}
