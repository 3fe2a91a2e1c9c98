use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::super::attributes::Attributes;
use super::super::process::Process;
use super::super::reexec::{reexec, role, run_again};
use super::super::spawn::{self, Group, Program};
use super::*;

/// Both ends of a pseudo-terminal, which does not become a controlling terminal by being opened.
fn pair() -> (OwnedFd, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pseudo-terminal");
    grantpt(&master).expect("granted");
    unlockpt(&master).expect("unlocked");
    let path = ptsname(&master, Vec::new()).expect("a name").into_string().expect("ASCII");
    let slave = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path);
    (master, slave.expect("its other end"))
}

#[test]
fn the_foreground_is_given_to_a_child_and_taken_back() {
    if role().is_some() {
        return on_a_terminal();
    }
    let (_master, slave) = pair();
    let mut command = reexec(the_foreground_is_given_to_a_child_and_taken_back, "leader");
    let ended = command.stdin(slave).output().expect("runs");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && said.contains("1 passed"), "{ended:?}");
}

#[test]
fn what_is_no_terminal_is_not_ours() {
    match role() {
        Some(_) => assert!(Terminal::ours().is_none()),
        None => run_again(what_is_no_terminal_is_not_ours, "with /dev/null as its stdin"),
    }
}

fn on_a_terminal() {
    assert!(Terminal::ours().is_none(), "it is not the controlling one yet");
    let own = rustix::process::setsid().expect("leads no group yet");
    rustix::process::ioctl_tiocsctty(std::io::stdin()).expect("nobody else's");
    let mask = blocked();
    let terminal = Terminal::ours().expect("a leader's group has the foreground");
    let child = sleeper();
    terminal.give(child.pid).expect("a group of this session");
    assert_eq!(foreground(), child.pid);
    assert!(Terminal::ours().is_none(), "the child's now");
    // From the background: without SIGTTOU blocked, the call would be refused (EIO, because no process could continue
    // this group).
    terminal.take_back();
    assert_eq!(foreground(), Pid::new(own.as_raw_nonzero().get().unsigned_abs()));
    assert_eq!(blocked(), mask, "nothing stays blocked");
    // A group that has ended: the foreground is taken back from it, and cannot be given to it.
    terminal.give(child.pid).expect("still there");
    child.kill();
    while child.reap().expect("ours").is_none() {
        std::thread::yield_now();
    }
    terminal.take_back();
    assert!(Terminal::ours().is_some());
    let error = terminal.give(child.pid).expect_err("it is gone");
    assert!(error.to_string().contains(&format!("process group {}", child.pid)), "{error}");
}

fn sleeper() -> Process {
    let arguments = ["sleep".into(), "60".into()];
    let (path, environment) = (Path::new("/bin/sleep"), Vec::new());
    let program = Program {
        path,
        arguments: &arguments,
        environment,
        directory: None,
        attributes: &Attributes::capture(),
        group: Group::Own,
        listeners: &[],
    };
    spawn::program(&program).expect("spawns")
}

fn foreground() -> Pid {
    Pid::new(tcgetpgrp(std::io::stdin()).expect("a terminal").as_raw_nonzero().get().unsigned_abs())
}

fn blocked() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("alive");
    status.lines().find(|line| line.starts_with("SigBlk:")).expect("a line").to_owned()
}
