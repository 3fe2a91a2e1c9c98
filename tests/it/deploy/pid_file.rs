//! A PID file proves nothing: deploy.sh sends SIGHUP to the server only, and without proof changes nothing.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use super::Way;
use super::careful::{abandoned, assert_nothing_done};
use super::site::{Deploy, HANGS, Place, REAL, SOON, Site, tree, works_slowly};
use crate::support::stranger::Stranger;

const HOUR: Duration = Duration::from_secs(3600);

/// Sets the file's time back, as if the process had got the number of one that wrote the file long ago.
fn make_old(pid_file: &Path) {
    let file = File::options().append(true).open(pid_file).expect("it is there");
    file.set_modified(SystemTime::now() - HOUR).expect("set");
}

fn write_pid(place: &Place, pid: u32) {
    fs::write(place.pid_file(), format!("{pid}\n")).expect("written");
}

#[test]
fn a_stranger_that_handles_sighup() {
    let stranger = Stranger::start();
    let place = abandoned();
    let new = place.good("new v2");
    write_pid(&place, stranger.pid());
    for options in [&["--pid-file", "server.pid"][..], &["--pid-file", "server.pid", "--dry-run"]] {
        let ended = assert_nothing_done(&place, place.command(options, &new));
        let root = place.root().canonicalize().expect("a path").display().to_string();
        let (who, why) = (format!("process {} of server.pid", stranger.pid()), format!("is in {root}; nothing"));
        assert!(ended.err.contains(&who) && ended.err.contains(&why), "{ended:?}");
    }
    stranger.assert_unheard();
}

/// No process writes to the FIFO, and deploy.sh does not wait for one.
#[test]
fn a_fifo_is_no_pid_file() {
    let place = abandoned();
    let fifo = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, place.pid_file(), rustix::fs::FileType::Fifo, fifo, 0).expect("a FIFO");
    let command = place.command(&["--pid-file", "server.pid"], &place.good("new v2"));
    let ended = assert_nothing_done(&place, command);
    assert!(ended.err.contains("server.pid names no process"), "{ended:?}");
}

/// The process, whichever it is, is not the one for which the file was written.
#[test]
fn a_number_that_was_given_again() {
    let site = Site::start(Way::PidFile, &[]);
    make_old(&site.place.pid_file());
    let (before, live) = (tree(&site.place.root()), site.live());
    let ended = site.deploy(&["--release", "v2"], &site.place.good("new v2"));
    assert_eq!((ended.code, ended.out.as_str()), (Some(69), ""), "{ended:?}");
    assert!(ended.err.contains(&format!("process {live} of server.pid began after the file was written")), "{ended:?}");
    assert_eq!(tree(&site.place.root()), before);
    assert!(!site.server.log_contains("reloading"), "{}", site.server.log());
    write_pid(&site.place, live);
    site.deploys("v3");
}

#[test]
fn a_number_that_becomes_a_strangers_while_it_waits() {
    let site = Site::start(Way::PidFile, &[]);
    let stranger = Stranger::start();
    let before = tree(&site.place.root());
    let lock = File::open(site.place.root().join(".lock")).expect("the lock");
    flock(&lock, FlockOperation::LockExclusive).expect("locked");
    let deploy = site.begin(&["--release", "v2"], &site.place.good("new v2"));
    deploy.wait_says("waiting for another deploy");
    write_pid(&site.place, stranger.pid());
    drop(lock);
    let ended = deploy.end();
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.err.contains(&format!("process {} of", stranger.pid())), "{ended:?}");
    assert_eq!(tree(&site.place.root()), before);
    stranger.assert_unheard();
}

/// The PID file changes between the first SIGHUP and the next one.
#[test]
fn a_number_that_becomes_a_strangers_between_two_signals() {
    let first = |place: &Place| -> PathBuf { place.folder("new v1", Some(&works_slowly("new v1", place))) };
    let site = Site::start_of(Way::PidFile, &[], first);
    let stranger = Stranger::start();
    fs::write(site.place.path("hold"), "").expect("a file");
    site.server.hup();
    site.server.wait_log("spawned generation=2", SOON);
    let deploy = site.begin(&["--release", "bad"], &site.place.good("new v2"));
    site.server.wait_log("reload refused", SOON);
    write_pid(&site.place, stranger.pid());
    let ended = deploy.end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(69), ""), "{ended:?}");
    let why = "neither that file nor the path by which it was started is in";
    assert!(ended.err.contains(&format!("process {} of", stranger.pid())) && ended.err.contains(why), "{ended:?}");
    site.assert_flipped_back();
    stranger.assert_unheard();
}

/// A compiled binary whose server has no control socket.
#[test]
fn a_server_without_a_control_socket() {
    let binary = |place: &Place| {
        let folder = place.path("built");
        fs::create_dir(&folder).expect("a folder");
        fs::copy(REAL, folder.join("server")).expect("copied");
        folder
    };
    let site = Site::start_of(Way::PidFile, &["--no-control"], binary);
    let live = site.live();
    let ended = site.deploy(&["--release", "bad"], &site.place.folder("exits", Some("#!/bin/sh\nexit 1\n")));
    site.assert_failed(live, &ended);
    // The program given by --cutover finds no socket.
    let ended = site.deploy(&["--release", "v2", "--cutover", REAL], &site.place.path("built"));
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "v2 is live\n"), "{ended:?}");
    let exe = fs::read_link(format!("/proc/{}/exe", site.live())).expect("it lives");
    assert_eq!(exe, site.place.root().canonicalize().expect("a path").join("releases/v2/server"));
}

/// The PID file is too old for any other proof.
#[test]
fn a_control_socket_is_asked_where_there_is_one() {
    let site = Site::start(Way::PidFile, &[]);
    let begin = |id: &str, new: &Path| {
        let mut command = site.command(&["--release", id, "--cutover", REAL], new);
        command.env("RUNTIME_DIRECTORY", site.server.directory().join("run"));
        make_old(&site.place.pid_file());
        Deploy::begin(command)
    };
    let live = site.live();
    let ended = begin("bad", &site.place.folder("exits", Some("#!/bin/sh\nexit 1\n"))).end();
    site.assert_failed(live, &ended);
    assert!(ended.err.contains("reload failed: generation 2 exited with status 1"), "{ended:?}");
    site.assert_live("v2", &begin("v2", &site.place.good("new v2")).end());
    // When the deploy gives up, deploy.sh asks for a rollback through the control socket.
    let hangs = site.place.folder("hangs", Some(HANGS));
    let deploy = begin("late", &hangs);
    site.server.wait_log("spawned generation=4", SOON);
    deploy.signal(Signal::TERM);
    let ended = deploy.end();
    assert_eq!(ended.code, Some(75), "{ended:?}");
    assert!(site.server.log_contains("was rolled back on request"), "{}", site.server.log());
}

/// A server that is a script: its interpreter is outside of ROOT.
const SCRIPT: &str = r#"#!/usr/bin/env python3
import os, signal, subprocess, sys, time
pid_file = sys.argv[1]
def named():
    with open(pid_file) as file:
        return int(file.read())
def reload(*_):
    following = subprocess.Popen(sys.argv)
    while following.poll() is None:
        if named() == following.pid:
            os._exit(0)
        time.sleep(0.01)
signal.signal(signal.SIGHUP, reload)
with open(pid_file + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(pid_file + ".new", pid_file)
while True:
    signal.pause()
"#;

/// Kills, at the end of the test, the process that the PID file names: the newest generation of the server.
struct Scripted<'a>(&'a Place);

impl Scripted<'_> {
    /// The PID in the file; `None` before the file has one.
    fn live(&self) -> Option<u32> {
        fs::read_to_string(self.0.pid_file()).ok()?.parse().ok()
    }
}

impl Drop for Scripted<'_> {
    fn drop(&mut self) {
        let pid = self.live().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[test]
fn a_script_is_proven_by_its_own_path() {
    let place = Place::new();
    let server = Scripted(&place);
    let release = |name: &str| place.folder(name, Some(SCRIPT));
    let deploy =
        |id: &str, new: &Path| Deploy::begin(place.command(&["--pid-file", "server.pid", "--release", id], new)).end();
    assert_eq!(deploy("v1", &release("new v1")).code, Some(0));
    let program = place.root().canonicalize().expect("a path").join("current/server");
    let mut first = Command::new(program).arg(place.pid_file()).spawn().expect("spawned");
    let deadline = Instant::now() + SOON;
    while server.live().is_none() {
        assert!(Instant::now() < deadline, "no PID file");
        std::thread::yield_now();
    }
    assert_eq!(server.live(), Some(first.id()));
    let ended = deploy("v2", &release("new v2"));
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "v2 is live\n"), "{ended:?}");
    assert!(first.wait().expect("our own child").success());
}

/// The process has a script of the release as its argument, but is not the interpreter that the script asks for.
#[test]
fn what_has_a_file_of_the_release_open_is_not_started_by_it() {
    let place = abandoned();
    let notes = place.root().canonicalize().expect("a path").join("current/notes");
    fs::write(&notes, "#!/usr/bin/env python3\ntrap : HUP\necho ready\nread -r _\n").expect("written");
    // exec(2) sets a signal that is handled back to its default. A bash that begins with SIGHUP ignored, as below
    // nohup(1), could not handle it.
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::default()).expect("handled");
    let mut command = Command::new("bash");
    command.arg0("editor").arg(&notes).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut editor = command.spawn().expect("spawn bash");
    let mut ready = String::new();
    BufReader::new(editor.stdout.take().expect("a pipe")).read_line(&mut ready).expect("it speaks");
    write_pid(&place, editor.id());
    let ended = assert_nothing_done(&place, place.command(&["--pid-file", "server.pid"], &place.good("new v2")));
    // Closing its input ends the process.
    drop(editor.stdin.take());
    assert_eq!(editor.wait().expect("our own child").code(), Some(1), "bash was interrupted");
    assert_eq!(ready, "ready\n");
    assert!(ended.err.contains("neither that file nor the path by which it was started"), "{ended:?}");
}
