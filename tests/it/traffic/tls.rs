//! TLS keeps the promise of plain HTTP: nothing is lost, a handshake that is in flight is finished, sessions are resumed
//! at the next generation, and a certificate that cannot be used changes nothing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tempfile::TempDir;

use super::nothing_lost::{reload_under_load, reloads};
use crate::support::app::{App, Options};
use crate::support::load::{Mode, Plan, Transport};
use crate::support::process::{Instance, Start};
use crate::support::tls::Identity;

const NAME: &str = "app.test";
const CLIENTS: usize = 32;
const SOON: Duration = Duration::from_secs(20);

/// A folder with a certificate, and the server that uses it.
struct Site {
    folder: TempDir,
    identity: Identity,
}

impl Site {
    fn new() -> Site {
        let folder = tempfile::Builder::new().prefix("cutover-it-tls-").tempdir().expect("a folder");
        let identity = Identity::make(folder.path(), "app", &[NAME]);
        Site { folder, identity }
    }

    fn prepare(&self) -> Start {
        serve_with(Start::serve(), &self.identity)
    }

    fn load(&self, server: &Instance, mode: Mode) -> Plan {
        let protocol = if mode == Mode::Http2 { "h2" } else { "http/1.1" };
        let transport = Transport::Tls(self.identity.client(&[protocol]));
        Plan { transport, ..Plan::new([server.addr()], CLIENTS, mode) }
    }
}

fn serve_with(start: Start, identity: &Identity) -> Start {
    start.arg("--tls-cert").arg(&identity.certificate).arg("--tls-key").arg(&identity.key)
}

fn nothing_is_lost(mode: Mode) {
    let site = Site::new();
    let server = site.prepare().args(["--idle-grace", "1s"]).ready();
    let report = reload_under_load(&server, site.load(&server, mode), reloads());
    report.assert_nothing_lost();
    assert!(
        report.generations.len() as u64 > reloads(),
        "the clients saw only {} generations",
        report.generations.len()
    );
}

#[test]
fn nothing_is_lost_on_new_connections() {
    nothing_is_lost(Mode::Close);
}

#[test]
fn nothing_is_lost_on_kept_connections() {
    nothing_is_lost(Mode::KeepAlive);
}

#[test]
fn nothing_is_lost_of_pipelined_requests() {
    nothing_is_lost(Mode::Pipelined);
}

#[test]
fn nothing_is_lost_of_http_2() {
    nothing_is_lost(Mode::Http2);
}

/// The end of a connection is as lossless on what an acceptor of the application makes of it.
#[test]
fn nothing_is_lost_with_an_acceptor_of_the_application() {
    let options = Options { own_acceptor: true, idle_grace: Duration::from_secs(1), ..Options::default() };
    let app = App::new(options);
    for mode in [Mode::KeepAlive, Mode::Pipelined, Mode::Http2] {
        let server = app.start();
        let transport = Transport::Tls(app.tls_client());
        let plan = Plan { transport, ..Plan::new([server.addr()], CLIENTS, mode) };
        reload_under_load(&server, plan, 5).assert_nothing_lost();
    }
}

#[test]
fn a_plain_restart_loses_and_the_load_sees_it() {
    for mode in [Mode::Close, Mode::KeepAlive, Mode::Pipelined, Mode::Http2] {
        let site = Site::new();
        let plain = site.prepare().env("CUTOVER_STEERING", "off").args(["--linger", "0s", "--idle-grace", "0s"]);
        let server = plain.args(["--drain-timeout", "0s"]).ready();
        let report = reload_under_load(&server, site.load(&server, mode), reloads());
        assert!(report.failures.total() > 0, "a plain restart lost nothing: {report}");
    }
}

/// A TLS client whose bytes the test sends.
struct Client {
    tls: ClientConnection,
    socket: TcpStream,
}

impl Client {
    fn connect(address: SocketAddr, config: Arc<ClientConfig>, name: &'static str) -> Client {
        let tls = ClientConnection::new(config, ServerName::try_from(name).expect("a name")).expect("a client");
        let socket = TcpStream::connect(address).expect("connected");
        socket.set_nodelay(true).expect("set");
        socket.set_read_timeout(Some(SOON)).expect("set");
        Client { tls, socket }
    }

    /// The response to one request of HTTP/1.1, and the session after it.
    fn get(self) -> (String, ClientConnection) {
        let mut stream = StreamOwned::new(self.tls, self.socket);
        write!(stream, "GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n").expect("sent");
        let mut answer = Vec::new();
        let mut some = [0; 4096];
        while !String::from_utf8_lossy(&answer).contains("next answer") {
            match stream.read(&mut some).expect("an answer") {
                0 => break,
                count => answer.extend_from_slice(&some[..count]),
            }
        }
        (String::from_utf8_lossy(&answer).into_owned(), stream.conn)
    }
}

#[test]
fn a_handshake_that_is_in_flight_is_finished() {
    let site = Site::new();
    let server = site.prepare().ready();
    let blue = server.main_pid();
    let mut client = Client::connect(server.addr(), site.identity.client(&["http/1.1"]), NAME);
    let mut hello = Vec::new();
    client.tls.write_tls(&mut hello).expect("in memory");
    let (half, rest) = hello.split_at(hello.len() / 2);
    client.socket.write_all(half).expect("sent");
    server.reload();
    server.wait_log("from=retiring to=draining", SOON);
    client.socket.write_all(rest).expect("sent");
    let (answer, _) = client.get();
    assert!(answer.contains(&format!("pid {blue}\n")), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    server.wait_gone(blue, SOON);
}

/// The certificate that the server shows, by an id of the test's own choice.
fn shown(server: &Instance, identity: &Identity, name: &'static str) -> Result<(), String> {
    let mut client = Client::connect(server.addr(), identity.client(&["http/1.1"]), name);
    let shaken = client.tls.complete_io(&mut client.socket);
    shaken.map(drop).map_err(|error| error.to_string())
}

#[test]
fn a_reload_reads_the_files_anew_and_bad_files_change_nothing() {
    let site = Site::new();
    let server = site.prepare().ready();
    let load = site.load(&server, Mode::Close).start();
    let blue = server.main_pid();
    let renewed = Identity::make(site.folder.path(), "renewed", &[NAME]);
    let (certificate, key) = (site.identity.certificate.clone(), site.identity.key.clone());
    let old = [&certificate, &key].map(|path| fs::read(path).expect("there"));
    let empty = site.folder.path().join("empty");
    fs::write(&empty, "").expect("written");
    for (path, with, why) in [
        (&certificate, Some(&renewed.certificate), "app.key does not belong to the certificate"),
        (&certificate, Some(&renewed.key), "app.pem contains no certificate in PEM form"),
        (&key, Some(&empty), "app.key contains no private key in PEM form"),
        (&key, None, "app.key cannot be read: No such file or directory"),
        (&certificate, None, "app.pem cannot be read: No such file or directory"),
    ] {
        let mark = server.mark();
        match with {
            Some(with) => drop(fs::copy(with, path).expect("copied")),
            None => fs::remove_file(path).expect("removed"),
        }
        server.hup();
        let line = server.wait_log_after(mark, "reload failed", SOON);
        assert!(line.contains("could not start: ") && line.contains(why), "{line}");
        assert!(line.contains("generation 1 serves on"), "{line}");
        assert_eq!(server.main_pid(), blue);
        for (path, bytes) in [&certificate, &key].into_iter().zip(&old) {
            fs::write(path, bytes).expect("written");
        }
    }
    load.wait_answered(100, SOON);
    load.stop().assert_nothing_lost();
    // The renewed certificate, with its key.
    fs::copy(&renewed.certificate, &certificate).expect("copied");
    fs::copy(&renewed.key, &key).expect("copied");
    shown(&server, &site.identity, NAME).expect("the old certificate before the reload");
    server.reload();
    shown(&server, &renewed, NAME).expect("the new certificate after the reload");
    shown(&server, &site.identity, NAME).expect_err("the old certificate is gone");
}

#[test]
fn a_client_gets_the_certificate_for_the_name_that_it_asks_for() {
    let site = Site::new();
    let others = [("b", "b.test"), ("stars", "*.c.test")];
    let others = others.map(|(file, name)| Identity::make(site.folder.path(), file, &[name]));
    let server = others.iter().fold(site.prepare(), serve_with).ready();
    shown(&server, &site.identity, NAME).expect("the first");
    shown(&server, &others[0], "b.test").expect("the second");
    shown(&server, &others[1], "x.c.test").expect("the third");
    let why = shown(&server, &site.identity, "other.test").expect_err("no certificate is valid for the name");
    assert!(why.contains("NotValidForName") || why.contains("not valid for name"), "the first of all is shown: {why}");
}

/// Whether `openssl s_client` has resumed the session in `file`, and the generation that answered.
fn openssl(address: SocketAddr, version: &str, session: &str, file: &Path) -> (bool, String) {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), version, "-servername", NAME, session])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is installed: tests/run");
    let mut input = child.stdin.take().expect("piped");
    // s_client ends when the server has closed the connection, after it has saved the last ticket.
    input.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").expect("sent");
    let mut said = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut said).expect("text");
    drop(input);
    child.wait().expect("ended");
    let generation = said.lines().find_map(|line| line.strip_prefix("generation ")).unwrap_or("none").to_owned();
    (said.contains("\nReused, "), generation)
}

#[test]
fn a_session_is_resumed_at_the_next_generations() {
    let site = Site::new();
    let server = site.prepare().ready();
    for version in ["-tls1_3", "-tls1_2"] {
        let session = site.folder.path().join(format!("session{version}"));
        let first = server.count_log("reload done") + 1;
        assert_eq!(openssl(server.addr(), version, "-sess_out", &session), (false, first.to_string()));
        for generation in [first + 1, first + 2] {
            server.reload();
            let (resumed, by) = openssl(server.addr(), version, "-sess_in", &session);
            assert!(
                resumed && by == generation.to_string(),
                "{version}, resumed: {resumed}, by {by}: {}",
                server.log()
            );
        }
    }
    assert!(!server.log_contains("session tickets"), "{}", server.log());
}

/// A server that begins anew knows no ticket, so that the test above can fail.
#[test]
fn a_session_is_not_resumed_by_a_stranger() {
    let site = Site::new();
    let (server, stranger) = (site.prepare().ready(), site.prepare().ready());
    let session = site.folder.path().join("session");
    openssl(server.addr(), "-tls1_3", "-sess_out", &session);
    assert_eq!(openssl(stranger.addr(), "-tls1_3", "-sess_in", &session), (false, "1".to_owned()));
}
