//! `cutover stop` ends all processes of an instance, and reports success only after that.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::process::{Instance, Start};
use crate::support::verb::{Ended, Verb, name, socket};
use crate::support::{http_get, kept_alive, wait_connections};

const SOON: Duration = Duration::from_secs(10);

/// A connection with an incomplete request: a stop closes idle connections, but not this one.
fn under_way(server: &Instance) -> TcpStream {
    let mut client = TcpStream::connect(server.addr()).expect("connected");
    client.set_read_timeout(Some(SOON)).expect("set");
    client.write_all(b"GET / HTTP/1.1\r\n").expect("sent");
    wait_connections(server, 1);
    client
}

fn finish(mut client: TcpStream) {
    client.write_all(b"host: x\r\n\r\n").expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("answered, and closed without a reset");
    assert!(answer.contains("200 OK"), "{answer}");
}

fn stopped(server: &Instance) -> String {
    format!("instance {} is stopped\n", name(server))
}

/// On a slow machine the verb may have printed before that it waits.
#[track_caller]
fn says_so(ended: Ended, server: &Instance) {
    let ended = ended.with(0);
    assert!(ended.out.ends_with(&stopped(server)) && ended.err.is_empty(), "{ended:?}");
}

#[test]
fn when_it_ends_nothing_is_left() {
    let server = Start::serve().ready();
    drop(kept_alive(server.addr()));
    wait_connections(&server, 0);
    let ended = Verb::of("stop", &server).run();
    // The processes must be gone at this very moment.
    assert_eq!(server.pids(), Vec::<u32>::new());
    says_so(ended, &server);
    assert!(!socket(&server).exists(), "the control socket is left");
    assert!(http_get(server.addr(), "/").is_err());
    for verb in ["stop", "reload", "status", "promote", "rollback"] {
        let none = format!("no instance with the name {} runs", name(&server));
        Verb::of(verb, &server).run().fails(69, &[&none]);
    }
}

/// The server reads from an idle client for one second more, so that the close does not overtake an answer, and not for
/// the hour of the drain timeout.
#[test]
fn an_idle_connection_does_not_hold_it_up() {
    let server = Start::serve().args(["--drain-timeout", "1h", "--idle-grace", "1h"]).ready();
    let _idle = kept_alive(server.addr());
    says_so(Verb::of("stop", &server).run(), &server);
    assert_eq!(server.pids(), Vec::<u32>::new());
}

#[test]
fn a_request_under_way_is_finished() {
    let server = Start::serve().args(["--drain-timeout", "1h"]).ready();
    let client = under_way(&server);
    let mut stop = Verb::of("stop", &server).begin();
    stop.wait_out(&format!("waiting for generation 1 (pid {}) with 1 connection\n", server.first_pid()));
    assert!(stop.is_running());
    finish(client);
    says_so(stop.end(), &server);
    assert_eq!(server.pids(), Vec::<u32>::new());
}

#[test]
fn one_that_drains_is_waited_for_too() {
    let server = Start::serve().args(["--drain-timeout", "1h"]).ready();
    let client = under_way(&server);
    Verb::of("reload", &server).run().with(0);
    let mut stop = Verb::of("stop", &server).begin();
    stop.wait_out(&format!("generation 1 (pid {}) with 1 connection", server.first_pid()));
    assert!(stop.is_running());
    finish(client);
    says_so(stop.end(), &server);
    assert_eq!(server.pids(), Vec::<u32>::new());
}

#[test]
fn past_the_timeout_it_says_who_is_still_there() {
    let server = Start::serve().args(["--drain-timeout", "1h"]).ready();
    let client = under_way(&server);
    let ended = Verb::of("stop", &server).args(["--timeout", "500ms"]).run().with(75);
    assert_eq!(ended.err, format!("not gone in 500ms: generation 1 (pid {})\n", server.first_pid()));
    assert!(server.pids().contains(&server.first_pid()));
    finish(client);
    server.wait_gone(server.first_pid(), SOON);
}

#[test]
fn in_a_canary_both_are_ended() {
    let server = Start::serve().args(["--canary", "50%:1h"]).ready();
    let reload = Verb::of("reload", &server).begin();
    reload.wait_out("canary 50 %");
    assert_eq!(server.pids().len(), 2);
    let ended = Verb::of("stop", &server).run();
    assert_eq!(server.pids(), Vec::<u32>::new());
    says_so(ended, &server);
    let ended = reload.end().with(75);
    let why = "reload failed: generation 2 was given up: a stop was asked for; the old generation is stopping\n";
    assert_eq!(ended.err, why);
}
