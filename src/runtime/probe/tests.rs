//! The probe on real sockets: which answers pass, which errors are reported, and when the source is steered.

use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::*;

/// As the function that is tested, with its error as text.
async fn pass<S: Steer>(target: &Target, listener: SocketAddr, timeout: Duration, steer: S) -> Result<(), String> {
    let probe = Probe { target: target.clone(), timeout, addresses: vec![], preface: &[], is_steered: true };
    probe.pass(listener, steer).await.map_err(|error| error.to_string())
}

#[cfg(feature = "tls")]
mod tls;

const SOON: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(500);

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

/// What a server does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Reads a request, sends this text, and closes.
    Say(&'static str),
    Close,
    Reset,
    Never,
    /// Begins an answer whose header has no end.
    Flood,
}

/// A server on a real socket, which answers one connection after the other.
struct Bench {
    address: SocketAddr,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    async fn start(answers: impl Fn(usize) -> Answer + Send + 'static) -> Bench {
        Bench::on("127.0.0.1:0", answers).await
    }

    async fn on(address: &str, answers: impl Fn(usize) -> Answer + Send + 'static) -> Bench {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let bench = Bench { address, peers: Arc::default(), requests: Arc::default() };
        let (peers, requests) = (bench.peers.clone(), bench.requests.clone());
        tokio::spawn(async move {
            for nth in 0.. {
                let (stream, peer) = listener.accept().await.expect("accepts");
                peers.lock().expect("sound").push(peer);
                tokio::spawn(answer(stream, answers(nth), requests.clone()));
            }
        });
        bench
    }

    async fn probe(&self, target: &str, timeout: Duration) -> Result<(), String> {
        pass(&self::target(target), self.address, timeout, |_| ready(Ok(()))).await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn answer(mut stream: TcpStream, answer: Answer, requests: Arc<Mutex<Vec<String>>>) {
    match answer {
        Answer::Close => return,
        Answer::Reset => return stream.set_zero_linger().expect("SO_LINGER"),
        Answer::Never => return std::future::pending().await,
        Answer::Say(_) | Answer::Flood => {}
    }
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
        // A TLS handshake does not end with an empty line.
        if request.len() == 5 && !request.starts_with(b"GET /") {
            break;
        }
    }
    requests.lock().expect("sound").push(String::from_utf8_lossy(&request).into_owned());
    match answer {
        Answer::Close | Answer::Reset | Answer::Never => {}
        Answer::Say(text) => drop(stream.write_all(text.as_bytes()).await),
        Answer::Flood => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
            let field = format!("X-Large: {}\r\n", "x".repeat(1_000));
            // 10 MB, unless the client closes the connection earlier.
            for _ in 0..10_000 {
                if stream.write_all(field.as_bytes()).await.is_err() {
                    return;
                }
            }
            let _ = stream.write_all(b"\r\n").await;
        }
    }
}

fn target(text: &str) -> Target {
    text.parse().expect("a target")
}

/// Records the arguments of the calls of `steer`.
#[derive(Debug, Default, Clone)]
struct Steering(Arc<Mutex<Vec<Option<SocketAddr>>>>);

impl Steering {
    fn note(&self, source: Option<SocketAddr>) -> Result<(), SteeringError> {
        self.0.lock().expect("sound").push(source);
        Ok(())
    }

    /// The sources, each of which was followed by a `None`.
    #[track_caller]
    fn sources(&self) -> Vec<SocketAddr> {
        let calls = self.0.lock().expect("sound");
        let pairs = calls.chunks(2).map(|pair| match pair {
            [Some(source), None] => *source,
            other => panic!("{other:?} of {calls:?}"),
        });
        pairs.collect()
    }
}

#[tokio::test]
async fn a_server_that_becomes_well_passes() {
    let bench = Bench::start(|nth| Answer::Say(if nth < 5 { UNAVAILABLE } else { OK })).await;
    let steering = Steering::default();
    let started = Instant::now();
    let passed = pass(&target("/healthz?full"), bench.address, SOON, |source| ready(steering.note(source))).await;
    assert_eq!(passed, Ok(()));
    assert!(started.elapsed() < SOON / 2, "{:?}", started.elapsed());
    assert_eq!(steering.sources(), *bench.peers.lock().expect("sound"), "each source is what the server sees");
    let expected = format!(
        "GET /healthz?full HTTP/1.1\r\nhost: {}\r\nuser-agent: cutover-probe/{}\r\naccept: */*\r\nconnection: close\r\n\r\n",
        bench.address,
        env!("CARGO_PKG_VERSION"),
    );
    assert_eq!(*bench.requests.lock().expect("sound"), vec![expected; 6]);
}

#[tokio::test]
async fn a_redirect_passes_and_is_not_followed() {
    let bench = Bench::start(|_| Answer::Say("HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n")).await;
    assert_eq!(bench.probe("http://name/", SOON).await, Ok(()));
    let requests = bench.requests.lock().expect("sound");
    assert_eq!(requests.len(), 1);
    assert!(requests[0].contains("\r\nhost: name\r\n"), "{requests:?}");
}

#[tokio::test]
async fn the_last_answer_is_told() {
    let bench = Bench::start(|_| Answer::Say(UNAVAILABLE)).await;
    let said = bench.probe("/healthz", SHORT).await.expect_err("it is unavailable");
    let url = bench.url("/healthz");
    assert_eq!(said, format!("did not pass the probe {url} in 500ms: it answered 503 Service Unavailable"));
    let tries = bench.requests.lock().expect("sound").len();
    assert!((2..=5).contains(&tries), "{tries}");
}

#[tokio::test]
async fn a_try_cut_short_does_not_hide_the_answer_before() {
    let bench = Bench::start(|nth| if nth == 0 { Answer::Say("HTTP/1.1 599 x\r\n\r\n") } else { Answer::Never }).await;
    let said = bench.probe("http:/", SHORT).await.expect_err("it is broken");
    assert!(said.ends_with(": it answered 599"), "{said}");
}

#[tokio::test]
async fn each_way_to_fail_has_its_words() {
    for (answer, target, words) in [
        (Answer::Never, "/", "no answer in 500ms"),
        (Answer::Close, "http:/", "it closed the connection before it answered"),
        (Answer::Close, "/", "it closed the connection before it answered"),
        (Answer::Reset, "/", "it closed the connection before it answered"),
        (Answer::Say("SSH-2.0-x\r\n"), "/", "its answer is no HTTP/1.1"),
        (Answer::Say("HTTP/1.1 200"), "/", "it closed the connection before it answered"),
        (Answer::Flood, "/", "the header of its answer is larger than 64 kB or 100 fields"),
        (Answer::Say("HTTP/1.1 400 Bad Request\r\n\r\n"), "/", "it answered 400 Bad Request"),
    ] {
        let bench = Bench::start(move |_| answer).await;
        let said = bench.probe(target, SHORT).await.expect_err(words);
        let url = bench.url("/");
        assert_eq!(said, format!("did not pass the probe {url} in 500ms: {words}"), "{answer:?} {target}");
    }
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_refused() {
    let address = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
    let steering = Steering::default();
    let said =
        pass(&target("/x"), address, SHORT, |source| ready(steering.note(source))).await.expect_err("nobody is there");
    assert_eq!(said, format!("did not pass the probe http://{address}/x in 500ms: connection refused"));
    assert!(steering.sources().len() > 1);
}

#[tokio::test]
async fn one_hanging_answer_does_not_eat_the_whole_patience() {
    let bench = Bench::start(|nth| if nth == 0 { Answer::Never } else { Answer::Say(OK) }).await;
    let started = Instant::now();
    assert_eq!(bench.probe("/", TRY_AT_LEAST * 2).await, Ok(()));
    assert!(started.elapsed() < TRY_AT_LEAST * 2, "{:?}", started.elapsed());
}

#[test]
fn a_connection_waits_for_half_of_what_is_left_but_not_less_than_two_seconds() {
    let seconds = Duration::from_secs;
    for (left, waits) in [(60, 30), (5, 2), (4, 2), (3, 2), (2, 2), (1, 1), (0, 0)] {
        assert_eq!(limit(seconds(left)).as_secs(), waits, "{left}");
    }
    assert_eq!(limit(Duration::MAX), Duration::MAX / 2);
}

#[test]
fn durations_are_rounded() {
    for (micros, text) in [(4_999_990, "5s"), (2_500_000, "2.5s"), (123_456, "120ms"), (1_500, "1.5ms"), (0, "0ns")] {
        assert_eq!(shown(Duration::from_micros(micros)), text);
    }
}

#[tokio::test]
async fn a_listener_on_all_addresses_is_reached_by_loopback() {
    for (on, source) in [("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "::1"), ("127.0.0.3:0", "127.0.0.3")] {
        let bench = Bench::on(on, |_| Answer::Say(OK)).await;
        let steering = Steering::default();
        assert_eq!(pass(&target("/"), bench.address, SOON, |source| ready(steering.note(source))).await, Ok(()));
        assert_eq!(steering.sources(), *bench.peers.lock().expect("sound"));
        assert_eq!(steering.sources()[0].ip().to_string(), source);
    }
}

#[tokio::test]
async fn a_probe_that_is_dropped_steers_back() {
    let bench = Bench::start(|_| Answer::Never).await;
    let steering = Steering::default();
    let (steer, asked) = (steering.clone(), target("/"));
    let probing = spawnable(pass(&asked, bench.address, SOON, |source| ready(steer.note(source))));
    tokio::time::timeout(SHORT, probing).await.expect_err("no answer comes");
    assert_eq!(steering.sources(), *bench.peers.lock().expect("sound"));
    assert_eq!(steering.sources().len(), 1);
}

fn spawnable<F: Future + Send>(future: F) -> F {
    future
}

/// A socket that is closed before its connection is established leaves no state behind that would keep the port.
#[tokio::test]
async fn the_port_is_its_own_until_it_is_steered_back() {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("bound");
    let full = socket.listen(0).expect("listens");
    let address = full.local_addr().expect("bound");
    let mut queued = Vec::new();
    while let Ok(client) = tokio::time::timeout(SHORT, TcpStream::connect(address)).await {
        queued.push(client.expect("connected"));
    }
    let steering = Steering::default();
    let (steer, asked, ended) = (steering.clone(), target("/"), Arc::new(Notify::new()));
    let probing = pass(&asked, address, SOON, |source| {
        let (noted, ended) = (steer.note(source), ended.clone());
        async move {
            if source.is_none() {
                ended.notified().await;
            }
            noted
        }
    });
    tokio::time::timeout(SHORT, probing).await.expect_err("there is no room for it");
    let source = steering.sources()[0];
    tokio::task::yield_now().await;
    assert!(bound(source).is_err(), "somebody else can have the port");
    ended.notify_one();
    let is_free = async {
        while bound(source).is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, is_free).await.expect("the port is kept");
}

#[tokio::test]
async fn an_error_of_steering_is_final() {
    let bench = Bench::start(|_| Answer::Say(OK)).await;
    let calls = AtomicUsize::new(0);
    let steer = |source: Option<SocketAddr>| {
        calls.fetch_add(1, Ordering::Relaxed);
        ready(if source.is_some() { Err(SteeringError::Over) } else { Ok(()) })
    };
    let said = pass(&target("/"), bench.address, SOON, steer).await.expect_err("it cannot be steered");
    assert_eq!(said, format!("the probe {} cannot be steered: the rollout is over", bench.url("/")));
    assert_eq!(calls.into_inner(), 2, "there, and back");
    assert_eq!(bench.peers.lock().expect("sound").len(), 0, "unsteered there was no connection");
}

#[tokio::test]
async fn an_answer_of_nobody_knows_whom_counts_for_nothing() {
    let bench = Bench::start(|_| Answer::Say(OK)).await;
    let ends = AtomicUsize::new(0);
    let steer = |source: Option<SocketAddr>| {
        let is_first_end = source.is_none() && ends.fetch_add(1, Ordering::Relaxed) == 0;
        ready(if is_first_end { Err(SteeringError::Over) } else { Ok(()) })
    };
    pass(&target("/"), bench.address, SOON, steer).await.expect("the second answer counts");
    assert_eq!((ends.into_inner(), bench.peers.lock().expect("sound").len()), (2, 2));
}

/// The whole probe in the real kernel: blue would answer 503, and gets every other connection.
#[tokio::test]
async fn the_probe_alone_comes_to_green() {
    use crate::model::share::Share;
    use crate::model::steering::{Program, Split};
    use crate::sys::socket::{Sharing, Stack, bind};
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
        let blue = bind(address.parse().expect("an address"), Sharing::Alone, Stack::Dual).expect("bound");
        let address = blue.address;
        let blue = blue.listen(16).expect("listens");
        let green = bind(address, Sharing::Group, Stack::Dual).expect("bound").listen(16).expect("listens");
        let to_blue = Split { source: None, share: Share::NONE, green: &[1], blue: &[0] };
        let steer = |source| {
            let program = Program::split(&Split { source, ..to_blue }).ok_or(SteeringError::Over)?;
            crate::sys::steering::attach(&blue, &program).map_err(|_| SteeringError::Over)
        };
        steer(None).expect("steered");
        let steer = |source| ready(steer(source));
        let green = TcpListener::from_std(green).expect("registered");
        let served = tokio::spawn(async move {
            let (stream, _) = green.accept().await.expect("accepts");
            answer(stream, Answer::Say(OK), Arc::default()).await;
            green
        });
        assert_eq!(pass(&target("/"), address, SOON, steer).await, Ok(()));
        let green = served.await.expect("served").into_std().expect("a listener");
        let _other = TcpStream::connect(reached(address)).await.expect("connected");
        assert!(crate::sys::socket::accept_now(&green).expect("accept").is_none());
        assert!(crate::sys::socket::accept_now(&blue).expect("accept").is_some());
    }
}

#[cfg(not(feature = "tls"))]
#[tokio::test]
async fn https_is_refused_in_a_build_without_tls() {
    let bench = Bench::start(|_| Answer::Say(OK)).await;
    let said = bench.probe("https:/", SOON).await.expect_err("no TLS");
    assert!(said.contains("feature `tls`"), "{said}");
}
