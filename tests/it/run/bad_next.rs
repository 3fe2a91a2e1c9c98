//! A next generation that fails: the old one serves on, the log has the reason, and no process of the next one is left.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::http_get;
use crate::support::programs::{Port, pid_in};
use crate::support::run::{Run, Running};
use crate::support::script::{DAEMON, Script, executable};

const SOON: Duration = Duration::from_secs(20);

/// A server whose program can be replaced.
struct Deployed {
    port: Port,
    script: Script,
    run: Running,
    first: u32,
}

impl Deployed {
    fn new(args: &[&str]) -> Deployed {
        let (port, script) = (Port::free(), Script::server());
        let run = Run::at(port.address, script.at(port.address)).args(args).ready();
        let first = run.live();
        Deployed { port, script, run, first }
    }

    /// Asserts that a reload fails with these words, and that nothing has changed.
    #[track_caller]
    fn fails(&self, words: &[&str]) {
        fails(&self.run, self.port.address, self.first, words);
    }

    /// The same with this program as the next generation; a good program after that goes live.
    #[track_caller]
    fn fails_with(&self, text: &str, words: &[&str]) {
        self.script.deploy(text);
        self.fails(words);
        self.script.deploy("serve(sys.argv[1])");
        self.run.reload_to(3);
        assert_ne!(answered_by(self.port.address), self.first);
    }
}

#[track_caller]
fn answered_by(address: std::net::SocketAddr) -> u32 {
    let answer = http_get(address, "/").expect("an answer");
    pid_in(&answer).expect("a pid")
}

#[track_caller]
fn fails(run: &Running, address: std::net::SocketAddr, first: u32, words: &[&str]) {
    let line = run.reload_fails();
    for word in words.iter().chain(&["reload failed: generation 2 ", "; generation 1 serves on"]) {
        assert!(line.contains(word), "`{word}` is not in: {line}\n{}", run.log());
    }
    assert_eq!(answered_by(address), first);
    run.wait_until("nothing of it is left", || run.members() == BTreeSet::from([first]));
    run.wait_no_zombies();
    let status = run.status();
    assert_eq!((status.generations.len(), status.reloads_rolled_back), (1, 1), "{status:?}");
}

#[test]
fn a_command_that_has_vanished_or_may_not_be_executed_any_more() {
    let (port, script) = (Port::free(), Script::server());
    let program = script.folder().join("program");
    let text = format!("#!/bin/sh\nexec python3 {} \"$@\"\n", script.path().display());
    executable(&program, &text);
    let words = [program.display().to_string(), port.address.port().to_string()];
    let run = Run::at(port.address, words.clone()).ready();
    let first = run.live();
    std::fs::remove_file(&program).expect("removed");
    fails(&run, port.address, first, &[&format!("the executable {} cannot be found", program.display())]);
    std::fs::write(&program, &text).expect("written");
    let line = run.reload_fails();
    assert!(line.contains(&format!("generation 3 {} is not executable", program.display())), "{line}");
    executable(&program, &text);
    run.reload_to(4);
    run.wait_reaped(first);
}

#[test]
fn one_that_exits_before_it_is_ready() {
    Deployed::new(&[]).fails_with("sys.exit(3)", &["exited with status 3", "before it was ready"]);
}

#[test]
fn one_that_exits_with_0_before_it_is_ready() {
    Deployed::new(&[]).fails_with("sys.exit(0)", &["generation 2 exited with status 0 before it was ready"]);
}

#[test]
fn one_that_is_killed_before_it_is_ready() {
    let text = "os.kill(os.getpid(), signal.SIGKILL)";
    Deployed::new(&[]).fails_with(text, &["generation 2 was killed by SIGKILL (9) before it was ready"]);
}

/// Processes that the first process leaves behind end too.
#[test]
fn one_that_exits_and_leaves_others_behind() {
    let text = "
if not os.fork():
    time.sleep(600)
sys.exit(3)
";
    Deployed::new(&[]).fails_with(text, &["exited with status 3", "before it was ready"]);
}

#[test]
fn one_that_daemonises() {
    Deployed::new(&[]).fails_with(DAEMON, &["exited with status 0 and left", "(it daemonises)"]);
}

#[test]
fn one_that_never_listens_is_killed_with_all_its_children() {
    let text = "
for _ in range(3):
    os.fork()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
";
    Deployed::new(&["--ready-timeout", "2s"]).fails_with(text, &["generation 2 did not become ready in 2s"]);
}

/// The next generation's program was changed, and cannot bind any more: both the program and the supervisor say so.
#[test]
fn one_that_does_not_share_its_port_any_more() {
    let text = "serve(sys.argv[1], share=False)";
    let server = Deployed::new(&[]);
    server.fails_with(text, &["exited with status 1", "address is in use", "SO_REUSEPORT"]);
    server.run.wait_log("Address already in use", SOON);
}

/// The running program does not share its port: the supervisor says so before a spawn, with the ways to fix it.
#[test]
fn a_running_one_that_does_not_share_its_port() {
    let (port, script) = (Port::free(), Script::new("serve(sys.argv[1], share=False)"));
    let address = port.address;
    // The test's own socket would block the program's bind(2).
    drop(port);
    for listen in [true, false] {
        let run = match listen {
            true => Run::at(address, script.at(address)).ready(),
            false => Run::new(script.at(address)).ready(),
        };
        run.wait_until("it serves", || http_get(address, "/").is_ok());
        let without =
            format!("generation 2 was not started, because the program listens on {address} without SO_REUSEPORT");
        let how = ["gunicorn: reuse_port", "nginx: listen", "node: listen(", "Python: ", "Go: ", "Java: "];
        let words = [&[without.as_str()][..], &how].concat();
        fails(&run, address, run.live(), &words);
        assert_eq!(run.count_log(" spawned "), 1, "{}", run.log());
    }
}
