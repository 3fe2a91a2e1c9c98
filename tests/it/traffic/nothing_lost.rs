//! The main promise: under full load, reload after reload, no request fails. And its negative control.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::Socket;

use crate::support::group;
use crate::support::load::{Mode, Plan, Report, Transport};
use crate::support::process::{Instance, Start};

/// CI does fewer reloads in each test; `CUTOVER_LONG=1` does all fifty.
pub(super) fn reloads() -> u64 {
    if std::env::var_os("CUTOVER_LONG").is_some() { 50 } else { 20 }
}

const CLIENTS: usize = 64;
const SOON: Duration = Duration::from_secs(20);

/// The addresses to which the clients connect, if the server listens on `listen`.
fn targets(server: &Instance, listen: &str) -> Vec<SocketAddr> {
    let port = server.addr().port();
    match listen {
        "[::]:0" => ["127.0.0.1", "[::1]"].iter().filter_map(|host| format!("{host}:{port}").parse().ok()).collect(),
        _ => server.addrs(),
    }
}

/// Reloads under load, each time after the clients have met the last generation and have got some hundred answers more.
pub(super) fn reload_under_load(server: &Instance, plan: Plan, reloads: u64) -> Report {
    // A handshake of TLS takes as long as many requests.
    let (at_first, after_each) = match plan.transport {
        Transport::Tls(_) => (200, 60),
        Transport::Tcp | Transport::Unix(_) => (1000, 300),
    };
    let load = plan.start();
    load.wait_answered(at_first, SOON);
    for reload in 1..=reloads {
        server.reload();
        load.wait_generation(reload + 1, SOON);
        load.wait_answered(after_each, SOON);
        // Of more than three generations that drain, the oldest is ended.
        if let Some(before) = reload.checked_sub(2).filter(|before| *before > 0) {
            server.wait_log(&format!(" gone generation={before} "), SOON);
        }
    }
    let report = load.stop();
    println!("{report}");
    report
}

fn nothing_is_lost(listen: &str, mode: Mode, options: &[&str]) {
    let server = Start::serve().listen(listen).args(["--idle-grace", "1s"]).args(options).ready();
    let plan = Plan::new(targets(&server, listen), CLIENTS, mode);
    let report = reload_under_load(&server, plan, reloads());
    report.assert_nothing_lost();
    assert!(
        report.generations.len() as u64 > reloads(),
        "the clients saw only {} generations",
        report.generations.len()
    );
}

/// One test for each kind of connection, number of listeners, and family.
macro_rules! nothing_is_lost {
    ($($name:ident: $listen:literal, $mode:expr, $listeners:literal;)*) => {
        $(#[test]
        fn $name() {
            nothing_is_lost($listen, $mode, &["--listeners-per-address", $listeners]);
        })*
    };
}

nothing_is_lost! {
    close_ipv4: "127.0.0.1:0", Mode::Close, "1";
    close_ipv4_three_listeners: "127.0.0.1:0", Mode::Close, "3";
    close_ipv6: "[::1]:0", Mode::Close, "1";
    close_ipv6_three_listeners: "[::1]:0", Mode::Close, "3";
    close_dual_stack: "[::]:0", Mode::Close, "1";
    close_dual_stack_three_listeners: "[::]:0", Mode::Close, "3";
    keep_alive_ipv4: "127.0.0.1:0", Mode::KeepAlive, "1";
    keep_alive_ipv4_three_listeners: "127.0.0.1:0", Mode::KeepAlive, "3";
    keep_alive_ipv6: "[::1]:0", Mode::KeepAlive, "1";
    keep_alive_ipv6_three_listeners: "[::1]:0", Mode::KeepAlive, "3";
    keep_alive_dual_stack: "[::]:0", Mode::KeepAlive, "1";
    keep_alive_dual_stack_three_listeners: "[::]:0", Mode::KeepAlive, "3";
    keep_alive_of_http_1_0: "127.0.0.1:0", Mode::KeepAlive10, "1";
    pipelined: "127.0.0.1:0", Mode::Pipelined, "1";
    http_2: "127.0.0.1:0", Mode::Http2, "1";
}

/// Clients that pause between two requests: their connections are idle when the generation retires.
#[test]
fn keep_alive_with_pauses() {
    for pause in [20, 400].map(Duration::from_millis) {
        let server = Start::serve().ready();
        let plan = Plan { pause, ..Plan::new([server.addr()], CLIENTS, Mode::KeepAlive) };
        reload_under_load(&server, plan, 3).assert_nothing_lost();
    }
}

/// The number of listeners may change with a reload: here by a file that the deployed script reads.
#[test]
fn another_number_of_listeners_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (count, program) = (folder.path().join("count"), folder.path().join("server"));
    let script = format!(
        "#!/bin/bash\nexec -a \"$0\" {} serve --listen 127.0.0.1:0 --listeners-per-address $(cat {})\n",
        env!("CARGO_BIN_EXE_cutover"),
        count.display()
    );
    std::fs::write(&program, script).expect("written");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    std::fs::write(&count, "3").expect("written");
    let server = Start::program(&program).ready();
    let load = Plan::new([server.addr()], CLIENTS, Mode::Close).start();
    load.wait_answered(1000, SOON);
    for (generation, listeners) in (2..).zip(["1", "3", "5", "2", "1", "1", "4", "1", "3", "1"]) {
        std::fs::write(&count, listeners).expect("written");
        server.reload();
        load.wait_generation(generation, SOON);
        load.wait_answered(300, SOON);
    }
    let report = load.stop();
    report.assert_nothing_lost();
    assert!(!server.log_contains("not steered"), "{}", server.log());
}

/// A process that the server's program has forked has its listeners as well, until it calls exec(2), or for as long as
/// it lives: then a close by the server does not close the listeners.
#[test]
fn somebody_else_who_has_the_listeners_too_loses_nothing() {
    let server = Start::serve().args(["--listeners-per-address", "3"]).ready();
    let load = Plan::new([server.addr()], CLIENTS, Mode::Close).start();
    load.wait_answered(1000, SOON);
    let mut live = server.first_pid();
    for generation in 2..=5 {
        let theirs = listeners_of(live);
        assert_eq!(theirs.len(), 3);
        live = server.reload();
        load.wait_generation(generation, SOON);
        load.wait_answered(300, SOON);
        drop(theirs);
    }
    load.stop().assert_nothing_lost();
    assert!(!server.log_contains("not steered"), "{}", server.log());
}

/// Copies of the listeners of a process.
fn listeners_of(pid: u32) -> Vec<Socket> {
    let process = pidfd_open(group::pid_of(pid), PidfdFlags::empty()).expect("the process is there");
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there");
    let numbers = descriptors.filter_map(|fd| fd.ok()?.file_name().to_str()?.parse().ok());
    let copies = numbers.filter_map(|fd| pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()).ok());
    let is_tcp = |socket: &Socket| socket.local_addr().is_ok_and(|address| address.as_socket().is_some());
    copies.map(Socket::from).filter(|socket| is_tcp(socket) && socket.is_listener().unwrap_or_default()).collect()
}

/// A restart as usual: without steering, and without time for handshakes in flight. A load that sees no loss here would
/// see none anywhere.
#[test]
fn a_plain_restart_loses_and_the_load_sees_it() {
    for mode in [Mode::Close, Mode::KeepAlive, Mode::KeepAlive10, Mode::Pipelined, Mode::Http2] {
        let plain = Start::serve().env("CUTOVER_STEERING", "off").args(["--linger", "0s", "--idle-grace", "0s"]);
        let server = plain.ready();
        let report = reload_under_load(&server, Plan::new([server.addr()], CLIENTS, mode), reloads());
        assert!(report.failures.total() > 0, "a plain restart lost nothing: {report}");
    }
}
