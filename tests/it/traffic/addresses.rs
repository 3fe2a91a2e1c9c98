//! Addresses that are not available, that another process has, or that change.

use std::io::Read;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::deployed::{GREEN, Trial};
use crate::support::process::Start;
use crate::support::{http_get, join_group};

const SOON: Duration = Duration::from_secs(10);
const CUTOVER: &str = env!("CARGO_BIN_EXE_cutover");

/// Runs `cutover` to its end, and returns the exit code and the text on stderr.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    (child.wait().expect("ends").code(), said)
}

fn serve(address: &str) -> (Option<i32>, String) {
    refused(Command::new(CUTOVER).args(["serve", "--listen", address]))
}

#[track_caller]
fn says(result: &(Option<i32>, String), code: i32, words: &[&str]) {
    assert_eq!(result.0, Some(code), "{}", result.1);
    for word in words {
        assert!(result.1.contains(word), "`{word}` is not in: {}", result.1);
    }
}

#[test]
fn an_address_in_use_names_who_has_it() {
    let plain = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = plain.local_addr().expect("bound").to_string();
    let pid = format!("pid {}", std::process::id());
    says(&serve(&address), 1, &["cannot begin", &address, "is taken", &pid]);
}

#[test]
fn an_address_that_does_not_exist_is_named() {
    says(&serve("192.0.2.1:80"), 1, &["192.0.2.1 is no address of this machine"]);
    says(&serve("no.such.host.invalid:80"), 64, &["no.such.host.invalid"]);
    says(&serve("127.0.0.1:99999"), 64, &["127.0.0.1:99999"]);
    says(&serve("nonsense"), 64, &["nonsense"]);
}

#[test]
fn a_privileged_port_without_the_right_says_which_right() {
    // Root has the right. User 65534 has not, and cannot enter root's folders, in which the binary may be.
    let folder = tempfile::Builder::new().permissions(open_to_all()).tempdir().expect("a folder");
    let copy = folder.path().join("cutover");
    std::fs::copy(CUTOVER, &copy).expect("a copy");
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    }
    let unprivileged = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").expect("sysctl");
    assert_ne!(unprivileged.trim(), "0", "every port is unprivileged here, so there is nothing to be shown");
    command.arg(&copy).args(["serve", "--listen", "127.0.0.1:79"]);
    says(&refused(&mut command), 1, &["no right to listen on 127.0.0.1:79", "CAP_NET_BIND_SERVICE"]);
}

fn open_to_all() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o755)
}

#[test]
fn a_second_copy_is_refused_and_the_first_one_named() {
    let trial = Trial::begin("", &[]);
    let address = trial.server.addr();
    let first = format!("server (pid {}", trial.server.main_pid());
    says(&serve(&address.to_string()), 1, &[&first, "is taken"]);
    // The wildcard address of the same port would get no connections, but is a mistake of the operator as well.
    says(&serve(&format!("0.0.0.0:{}", address.port())), 1, &[&first, &format!("on {address}")]);
    trial.recovers();
}

#[test]
fn two_copies_started_at_once_never_share_the_port() {
    for _ in 0..20 {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let start = |_| Start::program(CUTOVER).args(["serve", "--listen", &port.to_string()]).spawn();
        let both: Vec<_> = (0..2).map(start).collect();
        let deadline = std::time::Instant::now() + SOON;
        loop {
            let serving = both.iter().filter(|one| one.log_contains(" live generation=1")).count();
            let refused = both.iter().filter(|one| one.log_contains("is taken")).count();
            assert!(serving <= 1, "both serve");
            // At the very same instant each copy may see the other one, and both may refuse.
            if serving + refused == 2 {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{}{}", both[0].log(), both[1].log());
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_stranger_in_the_group_is_named_and_gets_no_connection_by_a_reload() {
    let trial = Trial::begin("", &["--listeners-per-address", "2"]);
    let stranger = join_group(trial.server.addr());
    let line = trial.server.wait_log("has joined the group of", SOON);
    assert!(line.contains(&format!("(pid {}", std::process::id())), "{line}");
    for generation in 2..6 {
        trial.server.reload();
        let line = trial.server.wait_log(&format!("go to the next generation generation={generation} "), SOON);
        assert!(line.contains("tier=steered"), "its slot is known, because it was seen before green came: {line}");
    }
    drop(stranger);
    trial.recovers();
}

/// A stranger that joins at the same time as green may be before or behind green in the group: the server determines
/// which.
#[test]
fn a_stranger_that_joins_with_green_is_not_steered_to_by_mistake() {
    let trial = Trial::begin("slow", &["--listeners-per-address", "2"]);
    trial.deployed.put(GREEN);
    trial.server.hup();
    trial.server.wait_log(" spawned generation=2 ", SOON);
    let stranger = join_group(trial.server.addr());
    std::fs::write(trial.deployed.out(), "go on").expect("green may go on");
    let line = trial.server.wait_log("go to the next generation generation=2 ", SOON);
    assert!(line.contains("tier=steered"), "{line}");
    trial.server.wait_log("reload done: generation 2 is live", SOON);
    trial.server.wait_log("gone generation=1", SOON);
    drop(stranger);
    trial.recovers();
}

#[test]
fn port_zero_is_kept_for_each_of_several_addresses() {
    let server = Start::serve().listen("127.0.0.1:0").listen("127.0.0.1:0").listen("[::1]:0").ready();
    let addresses = server.addrs();
    for generation in 2..5 {
        server.reload();
        for address in &addresses {
            let page = http_get(*address, "/").expect("an answer");
            assert!(page.contains(&format!("generation {generation}")), "{address}: {page}");
        }
    }
}

#[test]
fn a_wildcard_of_ipv6_takes_ipv4_too_unless_both_are_asked_for() {
    let server = Start::serve().listen("[::]:0").ready();
    let port = server.addr().port();
    server.reload();
    for host in ["127.0.0.1", "[::1]"] {
        let page = http_get(format!("{host}:{port}").parse().expect("an address"), "/").expect("an answer");
        assert!(page.contains("generation 2"), "{page}");
    }
    let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let both = Start::serve().listen(&format!("[::]:{free}")).listen(&format!("0.0.0.0:{free}")).ready();
    both.reload();
    assert!(http_get(format!("127.0.0.1:{free}").parse().expect("an address"), "/").is_ok());
}

#[test]
fn wrong_usage_exits_with_64_and_help_with_0() {
    let run = |args: &[&str]| refused(Command::new(CUTOVER).arg0("cutover").args(args)).0;
    assert_eq!(run(&["--help"]), Some(0));
    assert_eq!(run(&["serve", "--help"]), Some(0));
    assert_eq!(run(&[]), Some(64));
    assert_eq!(run(&["sing"]), Some(64));
    assert_eq!(run(&["serve", "--linger", "long"]), Some(64));
    assert_eq!(run(&["serve", "--listeners-per-address", "0"]), Some(1));
}
