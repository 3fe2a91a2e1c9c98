//! HTTP on accepted connections. No request is lost when a generation retires and its connections end.

mod answer;
mod connection_close;
mod late_requests;
mod tracked_io;
mod version;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use self::answer::Marked;
use self::connection_close::CloseTiming;
use self::late_requests::LateRequests;
use self::tracked_io::TrackedIo;
use super::acceptor::{Acceptor, Layers};
use super::connection_info::ConnectionInfo;
use super::service::NewService;
#[cfg(feature = "tls")]
use super::tls::records::RecordStream;
use super::transport::Transport;
use crate::config::{Config, ProxyProtocol};
use crate::runtime::accept::Sink;
use crate::runtime::connections::{Kind, Stage};
use crate::runtime::stream::{Shared, Stream};

/// hyper's builder of connections of HTTP/2: see [`Server::http2`](crate::Server::http2).
pub type Http2Builder = http2::Builder<TokioExecutor>;

/// hyper's builders, as the user has set them.
#[derive(Debug, Clone)]
pub(super) struct Builders {
    pub(super) one: http1::Builder,
    pub(super) two: Http2Builder,
}

impl Default for Builders {
    fn default() -> Builders {
        Builders { one: http1::Builder::new(), two: http2::Builder::new(TokioExecutor::new()) }
    }
}

/// The settings by which both HTTP versions are served.
struct Http {
    layers: Layers,
    is_counted: bool,
    one: http1::Builder,
    two: Http2Builder,
    header_read_timeout: Duration,
    write_timeout: Option<Duration>,
    max_connection_age: Option<Duration>,
    idle_grace: Duration,
    /// How many bytes are read, at most, before a header among them is handed to the application.
    read_ahead_max: usize,
}

/// Serves each accepted connection with the application's service, on a task of its own.
pub(super) fn sink(service: impl NewService, config: &Config, builders: &Builders, layers: Layers) -> Sink {
    sink_of(service, config, builders, layers, true)
}

/// Serves plain connections with a service that is not the application's: its requests are not counted.
pub(super) fn uncounted(service: impl NewService, config: &Config) -> Sink {
    sink_of(service, config, &Builders::default(), Layers::NONE, false)
}

fn sink_of(service: impl NewService, config: &Config, builders: &Builders, layers: Layers, is_counted: bool) -> Sink {
    let Builders { mut one, mut two } = builders.clone();
    // hyper's own header timeout sets a new timer for each request; `no_header_comes` checks the connection a few times
    // per timeout instead.
    one.header_read_timeout(None).max_buf_size(config.max_header_size).half_close(config.half_close);
    two.timer(TokioTimer::new()).max_header_list_size(u32::try_from(config.max_header_size).unwrap_or(u32::MAX));
    // hyper reads while its buffer holds less than the largest header, and such a read may fill the room that was reserved
    // before, which is not more than that (`Buffered::poll_read_from_io` in src/proto/h1/io.rs, hyper 1.12).
    let read_ahead_max = version::FIRST + 2 * config.max_header_size;
    let http = Arc::new(Http {
        layers,
        is_counted,
        one,
        two,
        header_read_timeout: config.header_read_timeout,
        write_timeout: config.write_timeout,
        max_connection_age: config.max_connection_age,
        idle_grace: config.idle_grace,
        read_ahead_max,
    });
    Arc::new(move |stream| {
        let (http, service, shared) = (http.clone(), service.clone(), stream.shared());
        // A task for each kind, so that the task of a plain connection does not grow to the size of any other.
        let proxy_protocol = http.layers.proxy_protocol;
        match &http.layers.acceptor {
            Acceptor::Plain => match proxy_protocol {
                ProxyProtocol::Off => tokio::spawn(serve(stream, http, service)),
                ProxyProtocol::Required => tokio::spawn(accept(shared, proxied(stream, proxy_protocol), http, service)),
            },
            #[cfg(feature = "tls")]
            Acceptor::Tls(acceptor) => {
                let acceptor = acceptor.clone();
                let handshake =
                    async move { acceptor.accept(RecordStream::new(proxied(stream, proxy_protocol).await?)).await };
                tokio::spawn(accept(shared, handshake, http, service))
            }
            Acceptor::Own(own) => {
                let own = own.clone();
                let handshake = async move { own(proxied(stream, proxy_protocol).await?).await };
                tokio::spawn(accept(shared, handshake, http, service))
            }
        };
    })
}

/// The stream after the header of a proxy, if a proxy is in front of the server.
async fn proxied(mut stream: Stream, proxy_protocol: ProxyProtocol) -> io::Result<Stream> {
    match proxy_protocol {
        ProxyProtocol::Off => {}
        ProxyProtocol::Required => stream.read_proxy_header().await?,
    }
    Ok(stream)
}

/// Serves HTTP on a plain connection.
async fn serve(stream: Stream, http: Arc<Http>, service: impl NewService) {
    let shared = stream.shared();
    serve_on(stream, &shared, &http, service).await;
    close(&shared).await;
}

/// Waits for the handshake of a transport, and serves HTTP on the transport.
async fn accept<T: Transport + 'static>(
    shared: Arc<Shared>,
    handshake: impl Future<Output = io::Result<T>> + Send,
    http: Arc<Http>,
    service: impl NewService,
) {
    let mut stage = shared.guard.connections().watch();
    let begun = || Some(shared.reads()).filter(|reads| *reads > 0);
    let accepted = tokio::select! {
        biased;
        accepted = handshake => accepted.ok(),
        () = connection_close::no_header_comes(&shared, http.header_read_timeout) => None,
        () = connection_close::no_more_begins(&shared, &mut stage, begun) => None,
    };
    // An error is the client's. A client that does not speak the protocol of the transport gets no answer.
    if let Some(transport) = accepted {
        serve_on(transport, &shared, &http, service).await;
    }
    close(&shared).await;
}

/// Closes a connection that is served no longer.
async fn close(shared: &Arc<Shared>) {
    // An upgraded connection has another part, which belongs to the application and is ended by the application.
    // A client that still sends a body would be answered by a reset, which may overtake the response.
    let is_gentle = shared.is_leaving() || shared.pipeline().body_left() > 0;
    if is_gentle && Arc::strong_count(shared) == 1 {
        connection_close::close(shared, &mut shared.guard.connections().watch()).await;
    }
}

/// Serves HTTP on what a transport has made of a connection.
async fn serve_on(transport: impl Transport + 'static, shared: &Arc<Shared>, http: &Http, service: impl NewService) {
    let info = || transport.describe(ConnectionInfo::of(shared));
    let Some(service) = service.new_service(info).await else { return };
    shared.pipeline().follow(http.read_ahead_max);
    let mut io = TrackedIo::new(transport, shared.clone());
    let mut stage = shared.guard.connections().watch();
    let mut silent = pin!(connection_close::no_header_comes(shared, http.header_read_timeout));
    let begun = || {
        let pipeline = shared.pipeline();
        // What looks like a complete header here belongs to the preface of HTTP/2 (RFC 9113, 3.4).
        pipeline.waits().then(|| pipeline.reads())
    };
    let version = tokio::select! {
        biased;
        version = version::version(&mut io) => Some(version),
        () = silent.as_mut() => None,
        () = connection_close::no_more_begins(shared, &mut stage, begun) => None,
    };
    let stuck = connection_close::no_write_goes(shared, http.write_timeout);
    let aged = connection_close::grows_old(shared, http.max_connection_age, http.idle_grace);
    let service = Marked { service, connection: shared.clone(), is_counted: http.is_counted };
    // An error is the client's: the client went away, or did not send HTTP.
    match version {
        Some(Ok(Some(version::Version::One))) => {
            shared.guard.becomes(Kind::Http1);
            let connection = pin!(http.one.serve_connection(TokioIo::new(io), service).with_upgrades());
            let say = http1::UpgradeableConnection::graceful_shutdown;
            let given_up = pin!(async {
                tokio::select! {
                    () = silent => {}
                    () = stuck => {}
                }
            });
            connection_close::finish(connection, say, given_up, aged, shared, &mut stage, CloseTiming::WhenIdle).await;
        }
        Some(Ok(Some(version::Version::Two))) => {
            shared.guard.becomes(Kind::Http2);
            shared.pipeline().forget();
            // Boxed, so that the task of an HTTP/1 connection does not grow to the size of an HTTP/2 connection.
            let (of_generation, of_connection) = (stage.clone(), shared.clone());
            let is_retiring = move || matches!(of_connection.stage(*of_generation.borrow()), Stage::Retiring { .. });
            let io = LateRequests::new(io, is_retiring);
            let mut connection = Box::pin(http.two.serve_connection(TokioIo::new(io), service));
            // Idle connections are normal in HTTP/2, so silence is no reason to give one up.
            let stuck = pin!(stuck);
            let say = http2::Connection::graceful_shutdown;
            let timing = CloseTiming::Spread;
            connection_close::finish(connection.as_mut(), say, stuck, aged, shared, &mut stage, timing).await;
        }
        Some(Ok(None) | Err(_)) | None => {}
    }
}

// The tests speak TLS as well.
#[cfg(all(test, feature = "tls"))]
mod tests;
