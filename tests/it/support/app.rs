//! A server built with the library. The test binary runs as this server, and the test controls the server while it
//! runs.
//!
//! `/healthz` answers with the status that the test has set. `/slow` begins a response, and ends it when the test
//! decides. CONNECT opens a tunnel that echoes: to the host `stays` until the drain is over, to `leaves` until the
//! generation retires. `/pattern/N` is a body of N bytes, and `/check` checks such a body. Every other path is a page with
//! the pid and the generation of the answering process.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use cutover::{Drain, Event, Handle, Inherited, LogWriter, Server, Share, Started};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::process::{Instance, Start};
use super::{attributes, pattern, tls};

const OPTIONS: &str = "CUTOVER_TEST_APP";
/// The duration of steps that the test ends itself.
pub const HOUR: Duration = Duration::from_secs(3600);
/// The hosts to which a tunnel can be opened.
pub const STAYS: &str = "stays";
pub const LEAVES: &str = "leaves";
/// What a tunnel says before its end.
pub const GOODBYE: &str = "goodbye\n";

/// The request that the server makes at an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reaction {
    Promote,
    Rollback,
}

/// The settings with which the server is built.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    pub listen: Vec<String>,
    /// The indexes of the addresses that use TLS. If there are any, the server uses the plain TCP interface of the
    /// library.
    pub tls: Vec<usize>,
    pub probe: Option<String>,
    pub probe_timeout: Duration,
    pub canary: Vec<(Share, Duration)>,
    pub soak: Duration,
    pub listeners_per_address: usize,
    pub idle_grace: Duration,
    pub on_canary: Option<Reaction>,
    pub on_soak: Option<Reaction>,
    pub pid_file: Option<PathBuf>,
    pub ready_timeout: Duration,
    pub drain_timeout: Duration,
    /// If true, the hook `before_reload` never returns.
    pub hook_hangs: bool,
    /// If true, each generation changes its attributes when its server is made.
    pub changes_itself: bool,
    /// If true, HTTP is served on what an acceptor of the application makes of each connection: TLS.
    pub own_acceptor: bool,
    /// The behaviour of the hook `on_handover`; `None` for no hook.
    pub state: Option<State>,
    pub handover_timeout: Duration,
}

/// What the hook `on_handover` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Hands over this number of bytes, each with the number of the generation that hands over.
    Bytes(usize),
    Fails,
    Panics,
    Hangs,
}

impl State {
    fn make(self, generation: u32) -> Result<Vec<u8>, String> {
        match self {
            State::Bytes(count) => Ok(vec![u8::try_from(generation).expect("few"); count]),
            State::Fails => Err("the table is locked".into()),
            State::Panics => panic!("on purpose"),
            State::Hangs => loop {
                std::thread::park();
            },
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            listen: vec!["127.0.0.1:0".into()],
            tls: Vec::new(),
            probe: None,
            probe_timeout: Duration::from_secs(20),
            canary: Vec::new(),
            soak: Duration::ZERO,
            listeners_per_address: 1,
            idle_grace: Duration::from_secs(10),
            on_canary: None,
            on_soak: None,
            pid_file: None,
            ready_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(60),
            hook_hangs: false,
            changes_itself: false,
            own_acceptor: false,
            state: None,
            handover_timeout: Duration::from_secs(10),
        }
    }
}

/// The folder and the options by which the test controls the server.
pub struct App {
    folder: TempDir,
    pub options: Options,
}

impl App {
    pub fn new(options: Options) -> App {
        let folder = tempfile::Builder::new().prefix("cutover-it-app-").tempdir().expect("a folder");
        if !options.tls.is_empty() || options.own_acceptor {
            tls::make(folder.path());
        }
        App { folder, options }
    }

    /// The response to a GET of `/` over TLS.
    #[track_caller]
    pub fn page_by_tls(&self, address: SocketAddr) -> String {
        tls::get(self.folder.path(), address)
    }

    /// The configuration of a client that trusts the server's certificate.
    pub fn tls_client(&self) -> Arc<rustls::ClientConfig> {
        tls::client(self.folder.path())
    }

    /// Starts the server, and waits for READY=1.
    #[track_caller]
    pub fn start(&self) -> Instance {
        self.prepare().ready()
    }

    /// The command that starts the server: the test binary, which runs only `plays_the_server`.
    pub fn prepare(&self) -> Start {
        let told = (&self.options, self.folder.path());
        Start::program(std::env::current_exe().expect("this binary"))
            .args(["--exact", "support::app::plays_the_server", "--nocapture"])
            .env(OPTIONS, serde_json::to_string(&told).expect("plain data"))
            .listens(self.options.listen.len())
    }

    /// Sets the behaviour of `/healthz` from now on, in every generation: a status to answer with, `hang`, or `die`.
    pub fn healthz(&self, does: &str) {
        self.write(HEALTHZ, does);
    }

    /// Makes the next generations hang before they listen.
    pub fn next_hangs(&self) {
        self.write(HANG, "");
    }

    /// Makes the next generations start normally again.
    pub fn next_starts(&self) {
        let _ = fs::remove_file(self.folder.path().join(HANG));
    }

    /// Ends the responses of `/slow`.
    pub fn slow_ones_end(&self) {
        self.write(END, "");
    }

    fn write(&self, name: &str, text: &str) {
        let beside = self.folder.path().join("beside");
        fs::write(&beside, text).expect("written");
        fs::rename(beside, self.folder.path().join(name)).expect("renamed");
    }
}

const HEALTHZ: &str = "healthz";
const HANG: &str = "hang";
const END: &str = "end";

/// The entry point of the server's processes. In a normal test run this test does nothing.
#[test]
fn plays_the_server() {
    let Ok(told) = std::env::var(OPTIONS) else { return };
    let (options, folder): (Options, PathBuf) = serde_json::from_str(&told).expect("what the test has written");
    let log = LogWriter::stderr().expect("a thread");
    let writer = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_target(false).with_writer(move || writer.clone()).init();
    let server = build(&options);
    if options.changes_itself {
        attributes::change_own();
    }
    if folder.join(HANG).exists() {
        loop {
            std::thread::park();
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(serve(server, options, folder));
    log.flush_within(Duration::from_secs(1));
}

fn build(options: &Options) -> Server {
    let mut addresses = options.listen.iter();
    let mut server = Server::bind(addresses.next().expect("an address").as_str());
    for address in addresses {
        server = server.and_bind(address.as_str());
    }
    if let Some(probe) = &options.probe {
        server = server.probe(probe);
    }
    for (share, time) in &options.canary {
        server = server.canary_step(*share, *time);
    }
    if let Some(path) = &options.pid_file {
        server = server.pid_file(path);
    }
    if options.hook_hangs {
        server = server.before_reload(|| -> Result<(), String> {
            loop {
                std::thread::park();
            }
        });
    }
    server
        .http2(|http2| {
            http2.enable_connect_protocol();
        })
        .ready_timeout(options.ready_timeout)
        .drain_timeout(options.drain_timeout)
        .probe_timeout(options.probe_timeout)
        .soak(options.soak)
        .idle_grace(options.idle_grace)
        .listeners_per_address(options.listeners_per_address)
}

async fn serve(server: Server, options: Options, folder: PathBuf) {
    tokio::spawn(react(server.events(), server.handle(), options.clone()));
    let begun: Arc<OnceLock<Started>> = Arc::default();
    let mut server = server.handover_timeout(options.handover_timeout);
    let inherited = server.inherited().await;
    if let (Some(state), begun) = (options.state, begun.clone()) {
        server = server.on_handover(7, move || state.make(begun.get().expect("it has begun").generation.number()));
    }
    let inherited = inherited.map(Arc::new);
    let page = Page { folder: folder.into(), begun: begun.clone(), inherited, drain: server.drain() };
    let server = server.before_begin(move |started| begun.set(started.clone()).expect("it begins once"));
    let server = match options.own_acceptor {
        true => {
            let acceptor = tls::acceptor(&page.folder);
            server.acceptor(move |stream| acceptor.accept(stream))
        }
        false => server,
    };
    if options.tls.is_empty() {
        let service = service_fn(move |request| page.clone().answer(request));
        server.serve_hyper(service).await.expect("it begins");
    } else {
        serve_tls(server, &options.tls, page).await;
    }
}

/// Logs every event, and makes the request that the options name for the event.
async fn react(mut events: cutover::Events, handle: Handle, options: Options) {
    while let Some(event) = events.next().await {
        tracing::info!("event {event:?}");
        let reaction = match event {
            Event::Canary { .. } => options.on_canary,
            Event::Soak { .. } => options.on_soak,
            _ => None,
        };
        match reaction {
            Some(Reaction::Promote) => handle.promote().await,
            Some(Reaction::Rollback) => handle.rollback().await,
            None => {}
        }
    }
}

async fn serve_tls(server: Server, tls: &[usize], page: Page) {
    let acceptor = tls::acceptor(&page.folder);
    let mut listener = server.listen().await.expect("it begins");
    let secret: Vec<_> = tls.iter().map(|number| page.begun().addresses[*number]).collect();
    while let Some(stream) = listener.accept().await {
        let page = page.clone();
        let speaks_tls = stream.local_addr().is_ok_and(|local| secret.contains(&local));
        let acceptor = speaks_tls.then(|| acceptor.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| page.clone().answer(request));
            let http = hyper::server::conn::http1::Builder::new();
            // An error of a connection is ignored here, because its client reports the failure.
            let _ = match acceptor {
                None => http.serve_connection(TokioIo::new(stream), service).await,
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
                    Err(_) => return,
                },
            };
        });
    }
    listener.drained().await;
}

type Body = BoxBody<Bytes, Infallible>;

/// How long an upload is, and where its first wrong byte is.
async fn check(mut body: Incoming) -> Response<Body> {
    let mut check = pattern::Check::default();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(bytes) = frame.into_data() {
            check.take(&bytes);
        }
    }
    Response::new(Full::from(format!("{} bytes, wrong: {:?}", check.length, check.wrong)).boxed())
}

#[derive(Clone)]
struct Page {
    folder: Arc<Path>,
    begun: Arc<OnceLock<Started>>,
    inherited: Option<Arc<Inherited>>,
    drain: Drain,
}

impl Page {
    fn begun(&self) -> &Started {
        self.begun.get().expect("nobody asks before it has begun")
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        if request.method() == Method::CONNECT {
            return Ok(self.tunnel(request));
        }
        let who = format!("pid {}\ngeneration {}\n", std::process::id(), self.begun().generation);
        Ok(match request.uri().path() {
            "/inherited" => Response::new(Full::from(self.inherited()).boxed()),
            "/healthz" => self.healthz().await,
            "/slow" => self.slow(who),
            "/panic" => panic!("on purpose"),
            "/check" => check(request.into_body()).await,
            path if let Some(length) = path.strip_prefix("/pattern/") => {
                self.pattern(length.parse().expect("a number"))
            }
            _ => Response::new(Full::from(who).boxed()),
        })
    }

    /// The version, the generation, and the number of bytes of the state that was handed over.
    fn inherited(&self) -> String {
        let Some(state) = &self.inherited else { return "nothing\n".into() };
        let from = u8::try_from(state.from.number()).expect("few");
        assert!(state.bytes.iter().all(|byte| *byte == from), "the state is another generation's");
        format!("version {} from {} bytes {}\n", state.version, state.from, state.bytes.len())
    }

    async fn healthz(&self) -> Response<Body> {
        let does = fs::read_to_string(self.folder.join(HEALTHZ)).unwrap_or_else(|_| "200".into());
        tracing::info!(generation = %self.begun().generation, does, "asked for /healthz");
        let status = match does.as_str() {
            "hang" => std::future::pending().await,
            "die" => std::process::abort(),
            status => status.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()).expect("a status"),
        };
        let mut answer = Response::new(Full::from("health\n").boxed());
        *answer.status_mut() = status;
        answer
    }

    fn tunnel(&self, request: Request<Incoming>) -> Response<Body> {
        let (drain, stays) = (self.drain.clone(), request.uri().host() == Some(STAYS));
        tokio::spawn(async move {
            let time_to_go = async { if stays { drain.ended().await } else { drain.started().await } };
            let upgraded = hyper::upgrade::on(request).await.expect("a tunnel");
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            // An error means that the client has gone.
            let _ = tokio::select! {
                echoed = tokio::io::copy(&mut read, &mut write) => echoed.map(drop),
                () = time_to_go => write.write_all(GOODBYE.as_bytes()).await,
            };
            let _ = write.shutdown().await;
        });
        Response::new(Full::default().boxed())
    }

    fn pattern(&self, length: u64) -> Response<Body> {
        let (frames, to_send) = tokio::sync::mpsc::channel(2);
        tokio::spawn(async move {
            let mut offset = 0;
            while offset < length {
                let piece = pattern::piece(offset, pattern::PIECE.min(length - offset));
                offset += piece.len() as u64;
                // An error means that the client has gone.
                if frames.send(Ok(Frame::data(piece))).await.is_err() {
                    return;
                }
            }
        });
        let response = Response::builder().header("generation", self.begun().generation.number());
        response.body(StreamBody::new(ReceiverStream::new(to_send)).boxed()).expect("a response")
    }

    fn slow(&self, who: String) -> Response<Body> {
        let end = self.folder.join(END);
        let (frames, to_send) = tokio::sync::mpsc::channel(2);
        tokio::spawn(async move {
            let _ = frames.send(Ok(Frame::data(Bytes::from(who)))).await;
            // Polls a file, because no event comes from the process of the test.
            while !end.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let _ = frames.send(Ok(Frame::data(Bytes::from("whole\n")))).await;
        });
        Response::new(StreamBody::new(ReceiverStream::new(to_send)).boxed())
    }
}
