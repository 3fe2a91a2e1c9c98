//! Programs of another user, and a sandbox that forbids copies of sockets.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::http_get;
use crate::support::load::{Answer, Mode, Plan};
use crate::support::programs::{Port, pid_in};
use crate::support::run::{Run, Running};
use crate::support::script::Script;
use crate::support::seccomp::Refused;
use crate::support::skip;

const SOON: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65534;

fn may_change_user() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip("only root can start a program as another user");
    }
    is_root
}

/// A port that is free for every user: a port that the test's user holds is not shared with others.
fn free() -> SocketAddr {
    Port::free().address
}

/// Lets other users read the script.
fn readable(script: &Script) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(script.folder(), std::fs::Permissions::from_mode(0o755)).expect("set");
}

/// The number of IPv4 listeners on the port, from /proc/net/tcp: state 0A.
fn listeners(port: u16) -> usize {
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("readable");
    let (port, mut listening) = (format!(":{port:04X}"), 0);
    for fields in sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()) {
        listening += usize::from(fields.len() > 3 && fields[1].ends_with(&port) && fields[3] == "0A");
    }
    listening
}

fn uid(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a uid");
    line.split_whitespace().next().expect("one").parse().expect("a number")
}

/// Asserts that each of three reloads leads all connections to a new generation.
#[track_caller]
fn reloads(run: &Running, address: SocketAddr) {
    for generation in 2..=4 {
        let before = run.live();
        run.reload_to(generation);
        let live = run.live();
        assert_ne!(before, live);
        assert_eq!(uid(live), NOBODY);
        for _ in 0..10 {
            assert_eq!(pid_in(&http_get(address, "/").expect("an answer")), Some(live));
        }
        run.wait_reaped(before);
    }
    assert_eq!(run.members().len(), 1);
}

#[test]
fn one_that_drops_its_rights_after_bind() {
    if !may_change_user() {
        return;
    }
    let (address, text) = (
        free(),
        "
listener = listen(sys.argv[1])
stop_at(listener)
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
answer(listener)
",
    );
    let script = Script::new(text);
    let run = Run::at(address, script.at(address)).ready();
    reloads(&run, address);
    assert!(!run.log_contains("WARN"), "{}", run.log());
}

/// The listeners belong to another user than the supervisor, which therefore cannot join their group.
#[test]
fn one_that_has_other_rights_from_the_start() {
    if !may_change_user() {
        return;
    }
    let (address, script) = (free(), Script::server());
    readable(&script);
    let setpriv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"].map(ToOwned::to_owned);
    let run = Run::at(address, [&setpriv[..], &script.at(address)].concat()).ready();
    reloads(&run, address);
    assert!(!run.log_contains("WARN"), "{}", run.log());
}

/// The program itself reports the failure: for another user's listener no check beforehand can detect it.
#[test]
fn one_of_another_user_that_does_not_share_its_port() {
    if !may_change_user() {
        return;
    }
    let (address, script) = (free(), Script::new("serve(sys.argv[1], share=False)"));
    readable(&script);
    let setpriv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"].map(ToOwned::to_owned);
    let run = Run::at(address, [&setpriv[..], &script.at(address)].concat()).ready();
    let first = run.live();
    let line = run.reload_fails();
    for word in ["generation 2 exited with status 1", "SO_REUSEPORT", "generation 1 serves on"] {
        assert!(line.contains(word), "`{word}` is not in: {line}");
    }
    assert_eq!(pid_in(&http_get(address, "/").expect("an answer")), Some(first));
}

/// A supervisor without privileges, started as the user that the program is to have.
#[test]
fn one_without_rights() {
    if !may_change_user() {
        return;
    }
    let (address, script) = (free(), Script::server());
    readable(&script);
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("given away");
    let run = Run::at(address, script.at(address));
    let run = run.with(|start| start.by_user(NOBODY).env("RUNTIME_DIRECTORY", folder.path())).spawn();
    run.wait_log(" live generation=1 ", SOON);
    let before = run.members();
    run.reload_to(2);
    run.wait_until("the old one is gone", || run.members().is_disjoint(&before));
    assert!(http_get(address, "/").is_ok());
    assert!(!run.log_contains("not steered"), "{}", run.log());
}

/// As under Docker's default profile: the supervisor joins the group with a listener of its own, and closes that
/// listener when all is done.
#[test]
fn where_no_socket_can_be_copied() {
    let (port, script) = (Port::free(), Script::server());
    let run = Run::at(port.address, script.at(port.address)).with(|start| start.refused(Refused::PidfdGetfd)).ready();
    let said =
        run.wait_log("the program's listeners cannot be copied, steering by one more listener beside them", SOON);
    assert!(said.contains("pidfd_getfd"), "{said}");
    let plan = Plan { answer: Answer::Pid, ..Plan::new([port.address], 8, Mode::Close) };
    let load = plan.start();
    load.wait_answered(100, SOON);
    for generation in 2..=20 {
        let before = run.live();
        run.reload_to(generation);
        run.wait_reaped(before);
        load.wait_answered(100, SOON);
    }
    load.stop().assert_nothing_lost();
    assert_eq!(run.count_log("WARN"), 0, "{}", run.log());
    let ours = || listeners(port.address.port());
    run.wait_until("only the program listens", || ours() == 1);
}

/// Where the supervisor may not listen as that user either, the log says so once, and the kernel distributes the
/// connections.
#[test]
fn where_no_socket_of_another_user_can_be_copied() {
    if !may_change_user() {
        return;
    }
    for refused in [&[Refused::PidfdGetfd][..], &[Refused::PidfdGetfd, Refused::Setfsuid]] {
        let (address, script) = (free(), Script::server());
        readable(&script);
        let setpriv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"].map(ToOwned::to_owned);
        let run = Run::at(address, [&setpriv[..], &script.at(address)].concat());
        let run = run.with(|start| refused.iter().fold(start, |start, one| start.refused(*one))).ready();
        if let [_] = refused {
            reloads(&run, address);
            assert_eq!(run.count_log("WARN"), 0, "{}", run.log());
            continue;
        }
        for generation in 2..=4 {
            let before = run.live();
            run.reload_to(generation);
            run.wait_reaped(before);
            assert_eq!(pid_in(&http_get(address, "/").expect("an answer")), Some(run.live()));
        }
        let line = run.wait_log("not steered, going on without steering", SOON);
        for word in ["may not be copied (pidfd_getfd)", "no other listener can be added", &address.to_string()] {
            assert!(line.contains(word), "`{word}` is not in: {line}");
        }
        assert_eq!(run.count_log("WARN"), 1, "{}", run.log());
    }
}

/// A canary, which needs steering, works without copies too, and is rolled back.
#[test]
fn where_no_socket_can_be_copied_and_a_canary_is_asked_for() {
    let (port, script) = (Port::free(), Script::server());
    let run = Run::at(port.address, script.at(port.address)).args(["--canary", "50%:1h"]);
    let run = run.with(|start| start.refused(Refused::PidfdGetfd)).ready();
    let first = run.live();
    let plan = Plan { answer: Answer::Pid, ..Plan::new([port.address], 8, Mode::Close) };
    let load = plan.start();
    load.wait_answered(100, SOON);
    for generation in 2..=6 {
        run.hup();
        run.wait_log(&format!("a share of new connections goes to the next generation generation={generation} "), SOON);
        load.wait_answered(200, SOON);
        run.verb("rollback").run().with(0);
        run.wait_until("only the first is left", || run.members() == [first].into());
        run.wait_until("only it listens", || listeners(port.address.port()) == 1);
    }
    let report = load.stop();
    report.assert_nothing_lost();
    assert!(report.generations.len() > 5, "{report}");
}
