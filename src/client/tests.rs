//! The client against a server that acts as the test demands.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::model::event::Outcome;
use crate::model::identity::Pid;
use crate::model::progress::Progress;

/// What the server does with one connection.
enum Act {
    Answer(u16, &'static str),
    /// Sends the pieces of a body, then breaks the connection off.
    BreakAfter(Vec<&'static str>),
    /// Sends this piece of a body again and again.
    Endless(&'static str),
    /// Closes the connection at once, before anything is read.
    Close,
    /// Closes the connection after the request was received.
    Hear,
    Stall,
}

struct Fake {
    place: TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    fn path(&self) -> PathBuf {
        self.place.path().join("web.sock")
    }

    /// Answers one connection for each act; further connections wait.
    fn start(acts: Vec<Act>) -> Fake {
        let fake = Fake { place: tempfile::tempdir().expect("a folder"), asked: Arc::default() };
        let listener = UnixListener::bind(fake.path()).expect("bound");
        let asked = fake.asked.clone();
        tokio::spawn(async move {
            let mut acts = VecDeque::from(acts);
            while let Some(act) = acts.pop_front() {
                let (stream, _) = listener.accept().await.expect("accepted");
                let asked = asked.clone();
                tokio::spawn(perform(act, stream, asked));
            }
            std::future::pending::<()>().await;
            drop(listener);
        });
        fake
    }

    fn control(&self) -> Control {
        Control::at(self.path())
    }

    fn patient_for(&self, answer: u64, again: u64) -> Control {
        let patience = Patience { answer: Duration::from_millis(answer), again: Duration::from_millis(again) };
        Control { path: self.path(), patience }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

async fn perform(act: Act, mut stream: UnixStream, asked: Arc<Mutex<Vec<String>>>) {
    type Pieces = mpsc::Receiver<Result<Frame<Bytes>, std::io::Error>>;
    let (send, receive) = mpsc::channel(16);
    let status = match act {
        Act::Close => return,
        Act::Hear => {
            let _ = stream.read(&mut [0; 1024]).await;
            return;
        }
        Act::Stall => {
            std::future::pending::<()>().await;
            return;
        }
        Act::Answer(status, text) => {
            send.try_send(Ok(Frame::data(text.into()))).expect("room");
            drop(send);
            status
        }
        // Written by hand, because hyper does not send its buffered bytes before the break.
        Act::BreakAfter(pieces) => {
            let _ = stream.read(&mut [0; 1024]).await;
            let mut text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
            for piece in pieces {
                text += &format!("{:x}\r\n{piece}\r\n", piece.len());
            }
            stream.write_all(text.as_bytes()).await.expect("room");
            return;
        }
        Act::Endless(piece) => {
            tokio::spawn(async move { while send.send(Ok(Frame::data(Bytes::from(piece)))).await.is_ok() {} });
            200
        }
    };
    let body = Arc::new(Mutex::new(Some(receive)));
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        asked.lock().expect("no panic").push(format!("{} {}", request.method(), request.uri()));
        let body: Pieces = body.lock().expect("no panic").take().expect("one request a connection");
        let mut response = Response::new(StreamBody::new(ReceiverStream::new(body)));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        async move { Ok::<_, Infallible>(response) }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

const STATUS: &str = r#"{"name":"web","version":"0.1.0","addresses":["127.0.0.1:80"],"steering":"steered","rollout":null,
    "generations":[],"last_reload":null,"reloads_done":1,"reloads_rolled_back":0}"#;
const AGAIN: &str = r#"{"error":"this generation retires, ask again"}"#;
const STARTING: &str = "{\"event\":\"phase\",\"generation\":2,\"phase\":\"starting\",\"elapsed\":0.01}\n";
const DONE: &str = "{\"event\":\"outcome\",\"outcome\":\"done\",\"generation\":2,\"pid\":7,\"took\":0.041}\n";

fn kind<T: std::fmt::Debug>(result: Result<T, ControlError>) -> ControlErrorKind {
    result.expect_err("an error").kind()
}

#[tokio::test]
async fn each_verb_asks_for_its_own() {
    let fake = Fake::start((0..5).map(|_| Act::Answer(202, "{}")).chain([Act::Answer(200, "# EOF\n")]).collect());
    let control = fake.control();
    control.promote().await.expect("said yes");
    control.rollback().await.expect("said yes");
    control.stop().await.expect("said yes");
    control.reload(FollowUntil::Outcome).await.expect("begun");
    control.reload(FollowUntil::Gone).await.expect("begun");
    assert_eq!(control.metrics().await.expect("text"), "# EOF\n");
    let wanted = [
        "POST /v1/promote",
        "POST /v1/rollback",
        "POST /v1/stop",
        "POST /v1/reload",
        "POST /v1/reload?drain=true",
        "GET /metrics",
    ];
    assert_eq!(fake.asked(), wanted);
}

/// A status with these processes as generations 1, 2 and so on.
fn listing(pids: &[u32]) -> &'static str {
    let one = |(number, pid): (usize, &u32)| {
        format!(r#"{{"generation":{},"pid":{pid},"phase":"serving","share":100.0}}"#, number + 1)
    };
    let all: Vec<String> = pids.iter().enumerate().map(one).collect();
    STATUS.replace("\"generations\":[]", &format!("\"generations\":[{}]", all.join(","))).leak()
}

/// A process that puts a socket beside others, and lists a process of another instance there, is not believed.
#[tokio::test]
async fn an_instance_has_a_process_if_it_lists_it_and_itself() {
    let own = std::process::id();
    let parent = std::os::unix::process::parent_id();
    for (listed, asked, has) in [
        (&[own][..], own, true),
        (&[own, parent], parent, true),
        (&[parent], parent, false),
        (&[own], parent, false),
        (&[], own, false),
    ] {
        let fake = Fake::start(vec![Act::Answer(200, listing(listed))]);
        assert_eq!(fake.control().has(Pid::new(asked)).await, has, "{listed:?}, {asked}");
    }
    let fake = Fake::start(vec![Act::Answer(200, "<html>")]);
    assert!(!fake.control().has(Pid::new(own)).await);
}

#[tokio::test]
async fn one_that_hands_its_socket_on_is_asked_again() {
    let fake = Fake::start(vec![Act::Answer(503, AGAIN), Act::Close, Act::Hear, Act::Answer(200, STATUS)]);
    assert_eq!(fake.control().status().await.expect("at last").name, "web");
}

#[tokio::test]
async fn one_that_always_hands_on_is_given_up() {
    let fake = Fake::start((0..100).map(|_| Act::Answer(503, AGAIN)).collect());
    let error = fake.patient_for(10_000, 50).status().await.expect_err("no answer");
    assert_eq!(error.kind(), ControlErrorKind::Refused);
    assert_eq!(error.to_string(), "this generation retires, ask again");
    let fake = Fake::start((0..100).map(|_| Act::Close).collect());
    assert_eq!(kind(fake.patient_for(10_000, 50).status().await), ControlErrorKind::Lost);
}

#[tokio::test]
async fn a_refusal_has_its_reason_and_its_kind() {
    for (status, wanted) in [
        (409, ControlErrorKind::Refused),
        (403, ControlErrorKind::Denied),
        (400, ControlErrorKind::Protocol),
        (404, ControlErrorKind::Protocol),
        (405, ControlErrorKind::Protocol),
    ] {
        let fake = Fake::start(vec![Act::Answer(status, r#"{"error":"no, because"}"#)]);
        let error = fake.control().reload(FollowUntil::Outcome).await.expect_err("refused");
        assert_eq!((error.kind(), error.to_string().as_str()), (wanted, "no, because"));
    }
    let fake = Fake::start(vec![Act::Answer(404, "<html>"), Act::Answer(200, "<html>")]);
    let error = fake.control().promote().await.expect_err("not an instance");
    assert!(error.to_string().contains("404"), "{error}");
    assert_eq!(kind(fake.control().status().await), ControlErrorKind::Protocol);
}

#[tokio::test]
async fn a_process_that_hangs_is_not_waited_for() {
    let fake = Fake::start(vec![Act::Stall, Act::Endless("")]);
    assert_eq!(kind(fake.patient_for(50, 50).status().await), ControlErrorKind::Lost);
    let error = fake.patient_for(50, 50).status().await.expect_err("no end");
    assert!(error.to_string().contains("hangs"), "{error}");
}

#[tokio::test]
async fn an_answer_without_end_is_not_taken() {
    let piece: &str = "x".repeat(1 << 16).leak();
    let fake = Fake::start(vec![Act::Endless(piece), Act::Endless(piece)]);
    assert_eq!(kind(fake.control().metrics().await), ControlErrorKind::Protocol);
    let mut following = fake.control().reload(FollowUntil::Outcome).await.expect("begun");
    let error = following.next().await.expect_err("a line without end");
    assert_eq!(error.kind(), ControlErrorKind::Protocol);
    assert!(error.source().expect("a cause").to_string().contains("1048576"), "{error:?}");
}

#[tokio::test]
async fn a_reload_is_followed_line_by_line() {
    let lines = vec![
        "\n{\"event\":\"phase\",\"generation\":2,",
        "\"phase\":\"starting\",\"elapsed\":0.01}\n{\"event\":\"sing\"}\n{\"event\":\"phase\",\"phase\":\"flying\"}\n",
        DONE,
    ];
    let fake = Fake::start(vec![Act::BreakAfter(lines)]);
    let mut following = fake.control().reload(FollowUntil::Outcome).await.expect("begun");
    assert_eq!(following.pid(), Pid::new(std::process::id()));
    assert_eq!(following.line(), "");
    assert!(matches!(following.next().await, Ok(Some(Progress::Phase { .. }))));
    assert_eq!(following.line(), STARTING.trim());
    for line in ["{\"event\":\"sing\"}", "{\"event\":\"phase\",\"phase\":\"flying\"}"] {
        assert!(matches!(following.next().await, Ok(Some(Progress::Unknown))), "what a later version tells");
        assert_eq!(following.line(), line);
    }
    assert!(matches!(following.next().await, Ok(Some(Progress::Outcome(Outcome::Done { .. })))));
    // The connection was broken off, but after the outcome.
    assert!(matches!(following.next().await, Ok(None)));
    assert!(matches!(following.next().await, Ok(None)));
}

#[tokio::test]
async fn an_end_before_the_outcome_is_a_loss() {
    let fake = Fake::start(vec![
        Act::BreakAfter(vec![STARTING]),
        Act::Answer(200, STARTING),
        Act::BreakAfter(vec![STARTING, "{\"event\":\"outcome\",\"outc"]),
        Act::Answer(200, "what?\n"),
    ]);
    for _ in 0..3 {
        let mut following = fake.control().reload(FollowUntil::Outcome).await.expect("begun");
        assert!(matches!(following.next().await, Ok(Some(Progress::Phase { .. }))));
        let error = following.next().await.expect_err("the process died");
        assert_eq!(error.kind(), ControlErrorKind::Lost);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    }
    let mut following = fake.control().reload(FollowUntil::Outcome).await.expect("begun");
    assert_eq!(kind(following.next().await), ControlErrorKind::Protocol);
}

#[tokio::test]
async fn nobody_there_is_no_instance() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("web.sock");
    assert_eq!(kind(Control::at(&path).status().await), ControlErrorKind::NoInstance);
    drop(UnixListener::bind(&path).expect("bound"));
    assert_eq!(kind(Control::at(&path).status().await), ControlErrorKind::NoInstance, "a stale file");
    let long = Control::at(place.path().join("x".repeat(200)));
    let error = long.status().await.expect_err("too long");
    assert!(error.to_string().contains("xxx"), "{error}");
}

#[tokio::test]
async fn a_full_accept_queue_is_waited_for_but_not_for_ever() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("web.sock");
    let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket");
    listener.bind(&socket2::SockAddr::unix(&path).expect("short")).expect("bound");
    listener.listen(0).expect("listens");
    let _first = std::os::unix::net::UnixStream::connect(&path).expect("fills the queue");
    let patience = Patience { answer: Duration::from_millis(50), again: Duration::ZERO };
    assert_eq!(kind(Control { path, patience }.status().await), ControlErrorKind::Lost);
}
