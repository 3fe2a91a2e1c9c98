//! Unix sockets keep the promise of TCP: nothing is lost, and a file is made, replaced and removed by its owner only.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::nothing_lost::{reload_under_load, reloads};
use crate::support::load::{Mode, Plan, Transport};
use crate::support::process::{Instance, Start};

const CLIENTS: usize = 64;
const SOON: Duration = Duration::from_secs(20);

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("cutover-it-unix-").tempdir().expect("a folder")
}

fn at(path: &Path) -> SocketAddr {
    SocketAddr::from_pathname(path).expect("a short path")
}

/// A server on this Unix socket alone.
fn serve(address: &str) -> Start {
    Start::program(env!("CARGO_BIN_EXE_cutover")).args(["serve", "--listen", address]).listens(0)
}

fn plan(address: SocketAddr, mode: Mode) -> Plan {
    let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    Plan { transport: Transport::Unix(address), ..Plan::new([nowhere], CLIENTS, mode) }
}

fn nothing_is_lost(listen: &str, address: SocketAddr, mode: Mode, count: u64) {
    let server = serve(listen).args(["--idle-grace", "1s"]).ready();
    let report = reload_under_load(&server, plan(address, mode), count);
    report.assert_nothing_lost();
    assert!(report.generations.len() as u64 > count, "the clients saw only {} generations", report.generations.len());
}

#[test]
fn nothing_is_lost_on_a_path() {
    for (mode, count) in [(Mode::Close, reloads()), (Mode::KeepAlive, reloads()), (Mode::Http2, 5)] {
        let folder = folder();
        let path = folder.path().join("app.sock");
        nothing_is_lost(&format!("unix:{}", path.display()), at(&path), mode, count);
    }
}

#[test]
fn nothing_is_lost_on_an_abstract_name() {
    let name = format!("cutover-it-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    nothing_is_lost(&format!("unix:@{name}"), address, Mode::Close, reloads());
}

/// Negative control: a restart as usual, by a stop and a start, loses.
#[test]
fn a_stop_and_a_start_lose_and_the_load_sees_it() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let listen = format!("unix:{}", path.display());
    let first = serve(&listen).ready();
    let load = plan(at(&path), Mode::Close).start();
    load.wait_answered(500, SOON);
    first.signal(first.main_pid(), Signal::TERM);
    first.wait_exit(SOON);
    let _second = serve(&listen).ready();
    load.wait_answered(500, SOON);
    let report = load.stop();
    assert!(report.failures.total() > 0, "a stop and a start lost nothing: {report}");
}

#[test]
fn nothing_is_lost_beside_tcp_with_a_canary_and_a_soak() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let listen = format!("unix:{}", path.display());
    let server = Start::serve().args(["--listen", &listen, "--canary", "50%:300ms", "--soak", "300ms"]).ready();
    let unix = plan(at(&path), Mode::KeepAlive).start();
    let tcp = Plan::new([server.addr()], 16, Mode::Close).start();
    for generation in 2..=4 {
        server.reload();
        unix.wait_generation(generation, SOON);
        tcp.wait_generation(generation, SOON);
    }
    unix.stop().assert_nothing_lost();
    tcp.stop().assert_nothing_lost();
}

/// The answer to one request.
fn get(path: &Path) -> String {
    let mut stream = UnixStream::connect(path).expect("connected");
    stream.set_read_timeout(Some(SOON)).expect("set");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn stop(server: &Instance) {
    server.signal(server.main_pid(), Signal::TERM);
    server.wait_log("from=draining to=gone", SOON);
}

#[test]
fn the_last_generation_removes_its_file_and_no_other() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let listen = format!("unix:{}", path.display());
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // Root may give the file away.
    let owner = if user == 0 { (33, 34) } else { (user, group) };
    let start = serve(&listen).args(["--unix-mode", "622", "--unix-owner", &format!("{}:{}", owner.0, owner.1)]);
    let server = start.ready();
    let metadata = fs::metadata(&path).expect("there");
    assert_eq!((metadata.uid(), metadata.gid()), owner);
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o622);
    let blue = server.main_pid();
    server.reload();
    server.wait_gone(blue, SOON);
    assert!(get(&path).contains("generation 2"));
    assert_eq!(mode(&path), 0o622, "the file is the first generation's");
    stop(&server);
    server.wait_gone(server.main_pid(), SOON);
    assert!(!path.exists(), "the last generation leaves nothing");

    // Another file that has come by that name is not the server's to remove.
    let server = serve(&listen).ready();
    fs::remove_file(&path).expect("there");
    let _other = UnixListener::bind(&path).expect("free");
    stop(&server);
    server.wait_gone(server.main_pid(), SOON);
    assert!(path.exists(), "the other one's file");
}

#[test]
fn a_stale_file_is_replaced_and_a_living_one_and_any_other_file_are_refused() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let listen = format!("unix:{}", path.display());
    drop(UnixListener::bind(&path).expect("free"));
    assert!(path.exists(), "a close leaves the file");
    let server = serve(&listen).ready();
    assert!(get(&path).contains("generation 1"));
    let second = serve(&listen).arg("--no-control").spawn();
    let pid = server.main_pid();
    second.wait_log(&format!("is taken: another process (pid {pid}) listens there already"), SOON);
    assert!(get(&path).contains("generation 1"), "the first one serves on");

    let file = folder.path().join("file");
    fs::write(&file, "text").expect("written");
    let third = serve(&format!("unix:{}", file.display())).spawn();
    third.wait_log("is there already, and is no socket: nothing was changed", SOON);
    assert_eq!(fs::read_to_string(&file).expect("there"), "text");
}

/// The queue of the listener outlives the process that accepts from it.
#[test]
fn a_connection_that_waits_is_answered_although_its_generation_is_killed() {
    let folder = folder();
    let path = folder.path().join("app.sock");
    let server = serve(&format!("unix:{}", path.display())).args(["--soak", "1h"]).ready();
    let blue = server.main_pid();
    server.hup();
    server.wait_log("to=soaking", SOON);
    // In the soak, blue still accepts. A process that is stopped does not.
    server.freeze(blue);
    let mut client = UnixStream::connect(&path).expect("the queue takes it");
    client.set_read_timeout(Some(SOON)).expect("set");
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    server.signal(blue, Signal::KILL);
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("generation 2"), "{answer}");
}

#[test]
fn what_is_no_address_is_refused() {
    for (listen, why) in [
        ("unix:relative.sock", "write unix:/PATH, or unix:@NAME"),
        ("unix:/no/such/folder/app.sock", "cannot listen on unix:/no/such/folder/app.sock"),
    ] {
        let server = serve(listen).spawn();
        server.wait_log(why, SOON);
    }
    let probed = serve("unix:@cutover-it-probed").args(["--probe", "/"]).spawn();
    probed.wait_log("a probe needs an address with a port", SOON);
}
