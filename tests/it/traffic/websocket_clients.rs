//! WebSockets over reloads, by clients of other projects: each socket that is told 1001 (going away) reconnects, no message
//! is lost, and no socket is cut without a close frame. tokio-tungstenite with 1,000 sockets; websocat; websockets (Python).

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use rustix::process::Signal;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::support::clients::{Clients, Counter};
use crate::support::foreign::{find, python, repeat_while_reloading, succeed, unpacked, while_reloading};
use crate::support::site::Site;
use crate::support::tls::NAME;

const RELOADS: usize = 5;
/// The time between two messages of a socket.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a client may take for what the test waits for.
const SOON: Duration = Duration::from_secs(60);

impl Site {
    fn url(&self, host: &str, path: &str) -> String {
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{host}:{}{path}", self.address.port())
    }

    fn target(&self, path: &str) -> Target {
        let tls = self.tls.as_ref().map(|tls| tls.client(&["http/1.1"]));
        Target { address: self.address, url: self.url(NAME, path), tls }
    }
}

#[derive(Clone)]
struct Target {
    address: SocketAddr,
    url: String,
    tls: Option<Arc<ClientConfig>>,
}

type Socket = WebSocketStream<Box<dyn Io>>;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Target {
    async fn connect(&self) -> Result<Socket, Error> {
        let stream = TcpStream::connect(self.address).await?;
        let stream: Box<dyn Io> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = ServerName::try_from(NAME).expect("a name");
                Box::new(TlsConnector::from(tls.clone()).connect(name, stream).await?)
            }
        };
        Ok(client_async(&self.url, stream).await?.0)
    }
}

/// What all sockets have seen.
#[derive(Clone, Debug, Default)]
struct Tally {
    echoed: usize,
    /// How many sockets were told 1001.
    away: usize,
    /// How many messages were sent, and not echoed before the 1001. Each was sent again on the next socket.
    again: usize,
    failures: Vec<String>,
}

/// What became of a socket.
enum End {
    /// The server said 1001.
    Away,
    /// The test has ended.
    Stopped,
}

struct Client {
    target: Target,
    counter: Counter<Tally>,
    /// How many messages came back.
    echoed: usize,
}

impl Client {
    /// Sends numbers, one after the other, each when the one before has come back.
    async fn run(mut self) {
        loop {
            match self.one_socket().await {
                Ok(End::Away) => self.counter.count(|tally| tally.away += 1),
                Ok(End::Stopped) => return,
                Err(why) => {
                    self.counter.count(|tally| tally.failures.push(why));
                    // Each client fails once at most, so that a server that is gone ends the load.
                    return;
                }
            }
        }
    }

    async fn one_socket(&mut self) -> Result<End, String> {
        let mut socket = self.target.connect().await.map_err(|error| format!("connect: {error}"))?;
        loop {
            if self.counter.is_stopped() {
                socket.close(None).await.map_err(|error| format!("close: {error}"))?;
                while let Some(Ok(_)) = socket.next().await {}
                return Ok(End::Stopped);
            }
            let number = self.echoed.to_string();
            socket.send(Message::text(&number)).await.map_err(|error| format!("send: {error}"))?;
            match socket.next().await {
                Some(Ok(Message::Text(text))) if text.as_str() == number => {}
                other => {
                    is_away(&mut socket, other).await?;
                    self.counter.count(|tally| tally.again += 1);
                    return Ok(End::Away);
                }
            }
            self.echoed += 1;
            self.counter.count(|tally| tally.echoed += 1);
            if let Ok(received) = tokio::time::timeout(PAUSE, socket.next()).await {
                is_away(&mut socket, received).await?;
                return Ok(End::Away);
            }
        }
    }
}

/// Whether the server says 1001, and nothing after it. Anything else is a failure.
async fn is_away(socket: &mut Socket, received: Option<Result<Message, Error>>) -> Result<(), String> {
    match received {
        Some(Ok(Message::Close(Some(frame)))) if frame.code == CloseCode::Away => {}
        other => return Err(format!("neither an echo nor 1001: {other:?}")),
    }
    // The library answers the close frame. Nothing may follow but the end of the connection.
    match socket.next().await {
        None => Ok(()),
        other => Err(format!("after the close frame: {other:?}")),
    }
}

/// Many sockets that are open at once.
fn begin(target: &Target, sockets: usize) -> Clients<Tally> {
    Clients::start(|runtime, counter| {
        let client = |_| Client { target: target.clone(), counter: counter.clone(), echoed: 0 };
        (0..sockets).map(client).map(|client| runtime.spawn(client.run())).collect()
    })
}

/// Whether the sockets have seen this, or one of them has failed: then no more is seen.
fn or_failed(is_seen: impl Fn(&Tally) -> bool) -> impl Fn(&Tally) -> bool {
    move |tally| is_seen(tally) || !tally.failures.is_empty()
}

/// The number of sockets under TLS, whose handshakes take the most of a debug build's time.
fn sockets_under_tls() -> usize {
    if std::env::var_os("CUTOVER_LONG").is_some() { 1000 } else { 200 }
}

fn none_is_cut(with_tls: bool, sockets: usize) {
    let site = Site::start("websocket", &["60"], with_tls);
    let mut load = begin(&site.target("/"), sockets);
    load.wait("an echo on each socket", or_failed(|tally| tally.echoed >= sockets));
    for reload in 1..=RELOADS {
        let blue = site.server.main_pid();
        site.server.reload();
        let before = load.wait("1001 on each socket", or_failed(|tally| tally.away == reload * sockets)).echoed;
        load.wait("another echo on each socket", or_failed(|tally| tally.echoed >= before + sockets));
        site.server.wait_gone(blue, SOON);
    }
    let tally = load.stop();
    println!(
        "{sockets} sockets: {} echoes, {} times 1001, {} messages sent again",
        tally.echoed, tally.away, tally.again
    );
    assert!(tally.failures.is_empty() && tally.away == RELOADS * sockets, "{tally:?}");
}

#[test]
fn no_socket_is_cut_and_no_message_lost() {
    none_is_cut(false, 1000);
}

#[test]
fn no_socket_is_cut_and_no_message_lost_over_tls() {
    none_is_cut(true, sockets_under_tls());
}

/// Negative control: the sockets of a generation that is killed in its drain are cut, and the clients see it.
#[test]
fn a_kill_cuts_the_sockets_and_the_clients_see_it() {
    const SOCKETS: usize = 10;
    let site = Site::start("websocket", &["60"], false);
    let mut load = begin(&site.target("/stay"), SOCKETS);
    load.wait("an echo on each socket", or_failed(|tally| tally.echoed >= SOCKETS));
    site.server.reload();
    site.server.signal(site.server.first_pid(), Signal::KILL);
    load.wait("a failure of each socket", |tally| tally.failures.len() == SOCKETS);
    load.stop();
}

fn websocat(site: &Site, path: &str) {
    let mut websocat = unpacked("websocat/bin/websocat").expect("it is there");
    let (input, mut output) = std::io::pipe().expect("a pipe");
    output.write_all(b"hello\n").expect("sent");
    websocat.args(["--no-line", "--one-message", "--insecure"]).arg(site.url("127.0.0.1", path)).stdin(input);
    let said = succeed(&mut websocat);
    // Until now: at the end of its input websocat would not wait for the echo.
    drop(output);
    assert_eq!(said.trim(), "hello");
}

fn websocat_loses_nothing(with_tls: bool) {
    if find("websocat").is_none() {
        return;
    }
    let site = Site::start("websocket", &["60"], with_tls);
    websocat(&site, "/");
    // On `/stay` a socket lives to the end of the drain, so that each run gets its echo.
    let runs = repeat_while_reloading(&site.server, || websocat(&site, "/stay"));
    println!("{runs} runs of websocat");
}

#[test]
fn websocat_plain() {
    websocat_loses_nothing(false);
}

#[test]
fn websocat_over_tls() {
    websocat_loses_nothing(true);
}

/// The script sends messages until each of its sockets was told 1001 a few times.
fn websockets_lose_nothing(with_tls: bool) {
    const SOCKETS: &str = "20";
    if find("websockets").is_none() {
        return;
    }
    let site = Site::start("websocket", &["60"], with_tls);
    let certificate = site.tls.as_ref().map_or("-".into(), |tls| tls.certificate.clone().into_os_string());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/traffic/echo_websockets.py");
    let (echoed, _) = while_reloading(&site.server, || {
        let mut python = python("websockets").expect("it is there");
        python.arg(script).arg(site.url(NAME, "/")).arg(certificate).args([SOCKETS, &RELOADS.to_string()]);
        succeed(&mut python)
    });
    println!("{} echoes by websockets", echoed.trim());
}

#[test]
fn websockets_of_python() {
    websockets_lose_nothing(false);
}

#[test]
fn websockets_of_python_over_tls() {
    websockets_lose_nothing(true);
}
