//! The examples do what their first lines say, also across a reload.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::process::Instance;
use crate::support::tls::Identity;
use crate::support::{example, http_get};

const SOON: Duration = Duration::from_secs(20);

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// The response to `request`; empty if the server has closed the connection.
fn answer(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    // A server that closes a connection with unread bytes resets it.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reloads, and waits until the old generation is gone.
fn reload(server: &Instance) {
    let blue = server.main_pid();
    server.reload();
    server.wait_gone(blue, SOON);
}

#[test]
fn https_with_a_certificate_that_is_renewed() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = Identity::make(folder.path(), "cert", &["app.test"]);
    let [certificate, key] = [&first.certificate, &first.key].map(|path| path.to_str().expect("text").to_owned());
    let (server, address) = example("tls", &[&certificate, &key]);
    let said = first.get(address).expect("an answer");
    assert!(said.ends_with(&format!("hello from pid {}\n", server.main_pid())), "{said}");
    let renewed = Identity::make(folder.path(), "cert", &["app.test"]);
    reload(&server);
    let said = renewed.get(address).expect("an answer by the new certificate");
    assert!(said.ends_with(&format!("hello from pid {}\n", server.main_pid())), "{said}");
    first.get(address).expect_err("the old certificate is gone");
}

#[test]
fn the_client_behind_a_load_balancer() {
    let (server, address) = example("proxy_protocol", &[]);
    let connect = || {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(SOON)).expect("set");
        stream
    };
    for _ in 0..2 {
        let said = answer(connect(), &format!("PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\r\n{GET}"));
        assert!(said.contains(&format!("hello 192.0.2.7:5000, from pid {}\n", server.main_pid())), "{said}");
        assert_eq!(answer(connect(), GET), "", "a connection without the header is closed");
        reload(&server);
    }
}

#[test]
fn a_unix_socket_whose_file_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.sock");
    let (server, address) = example("unix_socket", &[path.to_str().expect("text")]);
    for _ in 0..3 {
        let stream = UnixStream::connect(&path).expect("connected");
        stream.set_read_timeout(Some(SOON)).expect("set");
        let hello = format!("hello from pid {}\n", server.main_pid());
        assert!(answer(stream, GET).ends_with(&hello));
        assert!(http_get(address, "/").expect("an answer").ends_with(&hello));
        reload(&server);
    }
}

#[test]
fn the_counter_survives_reloads() {
    let (server, address) = example("state", &[]);
    for number in 1..=6 {
        let said = http_get(address, "/").expect("an answer");
        assert!(said.ends_with(&format!("request {number}, answered by pid {}\n", server.main_pid())), "{said}");
        reload(&server);
    }
}
