//! A program that cannot begin: log and exit code give the reason, and no process is left behind.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use crate::support::programs::{Port, Program};
use crate::support::run::Run;
use crate::support::script::{DAEMON, Script, executable};
use crate::support::verb::Verb;

const SOON: Duration = Duration::from_secs(20);

/// Asserts that the run ends by itself, with this code and with these words in its log.
#[track_caller]
fn ends_with(run: Run, code: i32, words: &[&str]) {
    let run = run.spawn();
    let status = run.wait_exit(SOON);
    assert_eq!(status.code(), Some(code), "{}", run.log());
    for word in words {
        run.wait_log(word, SOON);
    }
    assert_eq!(run.members(), [].into(), "{}", run.log());
}

#[test]
fn a_command_that_is_missing() {
    ends_with(Run::new(["/no/such/program"]), 127, &["cannot begin: the executable /no/such/program cannot be found"]);
    ends_with(Run::new(["no-such-program"]), 127, &["cannot begin: the executable no-such-program is not in PATH"]);
}

#[test]
fn a_command_that_cannot_be_executed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (plain, text) = (folder.path().join("plain"), folder.path().join("text"));
    std::fs::write(&plain, "text").expect("written");
    executable(&text, "no program");
    let shown = |path: &Path| path.display().to_string();
    ends_with(Run::new([shown(&plain)]), 126, &[&format!("cannot begin: {} is not executable", shown(&plain))]);
    ends_with(Run::new([shown(folder.path())]), 126, &["cannot begin: ", "is not a file"]);
    ends_with(Run::new(["/"]), 126, &["cannot begin: the executable / is not a file"]);
    ends_with(
        Run::new([shown(&text)]),
        126,
        &["cannot begin: ", &format!("execute {}", shown(&text)), "Exec format error"],
    );
}

/// Wrong usage is refused before any other check, with the reason.
#[test]
fn what_cannot_be_meant() {
    let usages: [(&[&str], &str); 10] = [
        (&[], "<CMD>"),
        (&["--"], "<CMD>"),
        (&["--ready", "soon", "--", "true"], "the possible values are listening, notify, http:/PATH"),
        (&["--ready", "delay:later", "--", "true"], "later is no duration"),
        (&["--listen", "nowhere", "--", "true"], "--listen"),
        (&["--listen", "127.0.0.1:0", "--", "true"], "127.0.0.1:0 has port 0"),
        (&["--stop-signal", "NOPE", "--", "true"], "NOPE is no signal"),
        (&["--preflight", "", "--", "true"], "the command is empty"),
        (&["--ready", "http:/healthz", "--", "true"], "--listen ADDR"),
        (&["--ready", "delay:31s", "--", "true"], "--ready-timeout"),
    ];
    for (args, word) in usages {
        let ended = Verb::new("run").args(args).run().with(64);
        assert!(ended.err.contains(word), "`{word}` is not in {ended:#?}");
        assert_eq!(ended.out, "");
    }
}

#[test]
fn one_that_exits_before_it_is_ready_passes_its_code_on() {
    for (code, said) in [(0, "exited with status 0"), (3, "exited with status 3"), (143, "exited with status 143")] {
        let port = Port::free();
        let run = Run::at(port.address, ["sh", "-c", &format!("exit {code}")]);
        ends_with(run, code, &[said, "before it was ready"]);
    }
}

#[test]
fn one_that_is_killed_before_it_is_ready_passes_its_signal_on() {
    let port = Port::free();
    ends_with(
        Run::at(port.address, ["sh", "-c", "kill -KILL $$"]),
        128 + 9,
        &["was killed by SIGKILL (9) before it was ready"],
    );
}

#[test]
fn one_that_daemonises_is_named_as_such_and_ended() {
    let (port, script) = (Port::free(), Script::new(DAEMON));
    ends_with(
        Run::at(port.address, script.at(port.address)),
        69,
        &[
            "exited with status 0 and left",
            "it has put itself into the background (it daemonises)",
            "before it was ready",
        ],
    );
}

/// nginx daemonises in this way; its title also overwrites its environment, by which orphans are found otherwise.
#[test]
fn one_that_daemonises_and_wipes_its_environment() {
    let port = Port::free();
    let Some(served) = Program::Nginx.at(port.address) else { return };
    let foreground = served.command.last().expect("its configuration");
    let conf = std::fs::read_to_string(foreground).expect("read");
    assert!(conf.contains("daemon off;"), "{conf}");
    std::fs::write(foreground, conf.replace("daemon off;", "daemon on;")).expect("written");
    let folder = Path::new(foreground).parent().expect("a folder");
    let run = Run::at(port.address, served.command.clone()).spawn();
    assert_eq!(run.wait_exit(SOON).code(), Some(69), "{}", run.log());
    run.wait_log("it has put itself into the background (it daemonises)", SOON);
    let lives = |pid: &str| Path::new(&format!("/proc/{}", pid.trim())).exists();
    let pid = std::fs::read_to_string(folder.join("pid"));
    crate::support::run::wait_until("it is gone", || !pid.as_ref().is_ok_and(|pid| lives(pid)));
    crate::support::run::wait_until("nobody listens", || crate::support::http_get(port.address, "/").is_err());
}

#[test]
fn one_that_never_listens_is_given_up_with_all_its_children() {
    let port = Port::free();
    let run = Run::at(port.address, ["sh", "-c", "sleep 600 & sleep 600; true"]).args(["--ready-timeout", "1s"]);
    ends_with(run, 69, &["cannot begin: generation 1 did not become ready in 1s: it does not listen on"]);
}

/// The message names the address on which the program listens instead, because an operator needs that first.
#[test]
fn one_that_listens_elsewhere_is_given_up() {
    let (port, other) = (Port::free(), Port::free());
    let script = Script::server();
    let run = Run::at(port.address, script.at(other.address)).args(["--ready-timeout", "2s"]);
    let word = format!("did not become ready in 2s: it does not listen on {}, but on {}", port.address, other.address);
    ends_with(run, 69, &[&word]);
}

#[test]
fn an_address_that_is_taken_names_by_whom() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("an address");
    let words = [format!("cannot begin: {address} is taken: "), format!("(pid {}, uid ", std::process::id())];
    ends_with(Run::at(address, ["true"]), 69, &words.each_ref().map(String::as_str));
}

#[test]
fn a_second_one_by_the_same_name_is_refused() {
    let (port, script) = (Port::free(), Script::server());
    let first = Run::at(port.address, script.at(port.address)).ready();
    let folder = first.directory().join("run");
    let other = Port::free();
    let second = Run::at(other.address, script.at(other.address)).with(|start| start.env("RUNTIME_DIRECTORY", &folder));
    let word = format!("cannot begin: an instance with the name it runs already (pid {})", first.first_pid());
    ends_with(second, 69, &[&word]);
    let answer = crate::support::http_get(port.address, "/").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}
