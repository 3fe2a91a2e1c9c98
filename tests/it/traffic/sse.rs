//! Server-sent events over reloads: the stream of a retiring generation ends as a whole response, and a client that
//! reconnects with `Last-Event-ID` misses no event.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::clients::{Clients, Counter};
use crate::support::example;

const RELOADS: usize = 5;
const CLIENTS: usize = 16;
const SOON: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// What a client says when it reconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resume {
    FromTheLastEvent,
    FromNow,
}

#[derive(Clone, Debug, Default)]
struct Tally {
    events: u64,
    /// How many streams have ended.
    ends: usize,
    missed: u64,
    failures: Vec<String>,
}

/// A client that follows the events as a browser does.
struct Client {
    address: SocketAddr,
    version: Version,
    resume: Resume,
    counter: Counter<Tally>,
    last: Option<u64>,
    /// The time that the server asks to be waited for before the client reconnects.
    retry: Duration,
}

impl Client {
    async fn run(mut self) {
        while !self.counter.is_stopped() {
            match self.one_stream().await {
                Ok(()) => self.counter.count(|tally| tally.ends += 1),
                Err(why) => {
                    self.counter.count(|tally| tally.failures.push(why));
                    return;
                }
            }
            tokio::time::sleep(self.retry).await;
        }
    }

    async fn respond(&self) -> hyper::Result<Response<Incoming>> {
        let stream = TcpStream::connect(self.address).await.expect("connected");
        let mut request = Request::get(format!("http://{}/", self.address)).header("host", "x");
        if let (Some(last), Resume::FromTheLastEvent) = (self.last, self.resume) {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        match self.version {
            Version::One => {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                sender.send_request(request).await
            }
            Version::Two => {
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                sender.send_request(request).await
            }
        }
    }

    /// Follows one stream to its end.
    async fn one_stream(&mut self) -> Result<(), String> {
        let response = self.respond().await.map_err(|error| format!("request: {error}"))?;
        if response.status() != 200 {
            return Err(format!("{response:?}"));
        }
        let (mut body, mut text) = (response.into_body(), String::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| format!("within the stream: {error}"))?;
            let Ok(data) = frame.into_data() else { continue };
            text.push_str(std::str::from_utf8(&data).map_err(|error| error.to_string())?);
            while let Some((line, rest)) = text.split_once('\n') {
                self.read(line)?;
                text = rest.to_owned();
            }
            if self.counter.is_stopped() {
                return Ok(());
            }
        }
        if text.is_empty() { Ok(()) } else { Err(format!("the stream ends with half a line: {text}")) }
    }

    fn read(&mut self, line: &str) -> Result<(), String> {
        let number = |text: &str| text.trim().parse::<u64>().map_err(|error| format!("{line}: {error}"));
        if let Some(id) = line.strip_prefix("id:") {
            let id = number(id)?;
            let expected = self.last.map_or(id, |last| last + 1);
            let missed = id.checked_sub(expected).ok_or_else(|| format!("{id} instead of {expected}"))?;
            self.counter.count(|tally| {
                tally.events += 1;
                tally.missed += missed;
            });
            self.last = Some(id);
        } else if let Some(retry) = line.strip_prefix("retry:") {
            self.retry = Duration::from_millis(number(retry)?);
        }
        Ok(())
    }
}

fn follow(version: Version, resume: Resume) -> Tally {
    let (server, address) = example("sse", &[]);
    let mut clients = Clients::start(|runtime, counter| {
        let client =
            |_| Client { address, version, resume, counter: counter.clone(), last: None, retry: Duration::ZERO };
        (0..CLIENTS).map(client).map(|client| runtime.spawn(client.run())).collect()
    });
    let mut wait = |what: &str, is_seen: &dyn Fn(&Tally) -> bool| {
        clients.wait(what, |tally| is_seen(tally) || !tally.failures.is_empty())
    };
    let some = 10 * CLIENTS as u64;
    let mut events = wait("events", &|tally| tally.events > some).events;
    for reload in 1..=RELOADS {
        let blue = server.main_pid();
        server.reload();
        wait("the end of each stream", &|tally| tally.ends >= reload * CLIENTS);
        events = wait("more events", &|tally| tally.events > events + some).events;
        server.wait_gone(blue, SOON);
    }
    let tally = clients.stop();
    println!("{} events, {} streams, {} missed", tally.events, tally.ends, tally.missed);
    assert!(tally.failures.is_empty(), "{tally:?}");
    tally
}

#[test]
fn no_event_is_missed() {
    assert_eq!(follow(Version::One, Resume::FromTheLastEvent).missed, 0);
}

#[test]
fn no_event_is_missed_with_http_2() {
    assert_eq!(follow(Version::Two, Resume::FromTheLastEvent).missed, 0);
}

/// Negative control: the events between two streams are missed by a client that does not say where it was.
#[test]
fn without_the_id_of_the_last_event_some_are_missed() {
    assert!(follow(Version::One, Resume::FromNow).missed > 0);
}
