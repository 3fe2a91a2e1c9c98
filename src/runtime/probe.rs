//! The probe: a request to green on the real address, through the real stack, while every user is still on blue.
//!
//! The probe has a source (address and port) that no other socket can have during the probe, and only that source is
//! steered to green.

use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use super::groups::SteeringError;
use super::local_address::{bound, reached};
use crate::model::probe::{NoTls, Scheme, Target};
use crate::model::rollout::Failure;

/// The shortest time for one try, unless less time than this is left in total.
const TRY_AT_LEAST: Duration = Duration::from_secs(2);
/// The pause after the first try that failed. The pause doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The size limit for the header of an answer, in bytes.
const HEADER_MAX: usize = 64 * 1024;

/// How green is probed.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    pub(crate) target: Target,
    pub(crate) timeout: Duration,
    /// The addresses that are probed, one after the other.
    pub(crate) addresses: Vec<SocketAddr>,
    /// What each connection begins with, before TLS and HTTP.
    pub(crate) preface: &'static [u8],
    /// Whether other generations listen, so that the connections of the probe must be steered to green.
    pub(crate) is_steered: bool,
}

impl Probe {
    /// Probes green on each address, see [`Probe::pass`]. `steer` steers a source of connections to this address.
    ///
    /// # Errors
    /// If there is no address. Otherwise names the address that did not pass, and why.
    pub(crate) async fn ask<D: Future<Output = Result<(), SteeringError>> + Send + 'static>(
        &self,
        steer: impl Fn(SocketAddr, Option<SocketAddr>) -> D + Sync,
    ) -> Result<(), ProbeError> {
        if self.addresses.is_empty() {
            return Err(ProbeError::NoAddress);
        }
        for &address in &self.addresses {
            match self.is_steered {
                true => self.pass(address, |source| steer(address, source)).await?,
                false => self.pass(address, |_| ready(Ok(()))).await?,
            }
        }
        Ok(())
    }

    /// Probes until `timeout` is over; `Ok` as soon as one answer is 2xx or 3xx (no redirect is followed).
    ///
    /// Each connection has its own source: before it, `steer` is called with `Some(source)`, to steer only that source to
    /// green; after it, with `None`. An error of the first call is final; an error of the second call makes the answer
    /// invalid. A connection waits for its answer for half of the time that is left, but for 2 s at least (if as much is
    /// left), so that one hanging answer does not use up all of `timeout`, and a slow answer still has the time to come.
    ///
    /// With [`Scheme::Any`], a listener that does not understand plain HTTP is tried with TLS at once. Once the listener
    /// has answered HTTP over one of the two, or has spoken TLS, only that one is used.
    ///
    /// # Errors
    /// The failure of the last try that was not cut short by the end of `timeout`.
    ///
    /// # Cancel safety
    /// When the future is dropped, `steer` is called with `None` if a source is steered, and not waited for.
    async fn pass<S: Steer>(&self, listener: SocketAddr, steer: S) -> Result<(), ProbeError> {
        let Probe { target, timeout, preface, .. } = self;
        target.check()?;
        let (to, timeout) = (reached(listener), *timeout);
        let mut probe =
            Probing { target, preface, to, steer, speaks: target.scheme(), started: Instant::now(), timeout };
        let mut pause = FIRST_PAUSE;
        let mut met: Option<(Scheme, Miss)> = None;
        loop {
            let Err((scheme, miss)) = probe.once().await else { return Ok(()) };
            match miss {
                Miss::Steering(why) => {
                    return Err(ProbeError::NotSteered { url: target.url(scheme, to), why });
                }
                // A try that was cut short by the end of `timeout` says less than the try before it.
                Miss::Silence(limit) if limit < TRY_AT_LEAST && met.is_some() => {}
                miss @ (Miss::Unreachable(_)
                | Miss::Status(_)
                | Miss::TooLarge
                | Miss::Foreign(_)
                | Miss::NoTls(_)
                | Miss::Silence(_)
                | Miss::Doubtful(_)) => met = Some((scheme, miss)),
            }
            // There is no event for a change of green's answer: green can only be asked again.
            tokio::time::sleep(pause.min(probe.left())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            if probe.left().is_zero()
                && let Some((scheme, miss)) = met
            {
                return Err(ProbeError::Missed { url: target.url(scheme, to), timeout: shown(timeout), miss });
            }
        }
    }
}

/// How long a connection waits for its answer, if `left` is left of the timeout.
fn limit(left: Duration) -> Duration {
    (left / 2).max(TRY_AT_LEAST).min(left)
}

/// The duration as text, rounded for people to read.
fn shown(duration: Duration) -> String {
    let exact = duration < Duration::from_millis(10);
    let rounded = if exact { duration } else { Duration::from_millis((duration.as_millis() as u64 + 5) / 10 * 10) };
    format!("{rounded:?}")
}

struct Probing<'a, S> {
    target: &'a Target,
    preface: &'static [u8],
    to: SocketAddr,
    steer: S,
    /// The scheme of the listener, as far as it is known by now.
    speaks: Scheme,
    started: Instant,
    timeout: Duration,
}

impl<S: Steer> Probing<'_, S> {
    fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.started.elapsed())
    }

    /// One try: one connection, or two if the scheme of the listener must be found out. Of two failures, returns the
    /// one that says more.
    async fn once(&mut self) -> Result<(), (Scheme, Miss)> {
        let scheme = match self.speaks {
            Scheme::Any => Scheme::Http,
            known @ (Scheme::Http | Scheme::Https) => known,
        };
        let Err(plain) = self.connect_and_ask(scheme).await else { return Ok(()) };
        match plain {
            _ if self.speaks != Scheme::Any => return Err((scheme, plain)),
            // A TLS server closes the connection, sends an alert, or answers 400 in plain HTTP.
            Miss::Foreign(_) | Miss::Status(StatusCode::BAD_REQUEST) if cfg!(feature = "tls") => {}
            Miss::Status(_) | Miss::TooLarge => {
                self.speaks = Scheme::Http;
                return Err((Scheme::Http, plain));
            }
            Miss::Foreign(_)
            | Miss::NoTls(_)
            | Miss::Unreachable(_)
            | Miss::Silence(_)
            | Miss::Doubtful(_)
            | Miss::Steering(_) => return Err((Scheme::Http, plain)),
        }
        let Err(tls) = self.connect_and_ask(Scheme::Https).await else { return Ok(()) };
        match tls {
            Miss::Status(_) | Miss::TooLarge | Miss::Foreign(_) => {
                self.speaks = Scheme::Https;
                Err((Scheme::Https, tls))
            }
            Miss::Doubtful(_) | Miss::Steering(_) => Err((Scheme::Https, tls)),
            Miss::NoTls(_) => {
                if let Miss::Status(_) = plain {
                    self.speaks = Scheme::Http;
                }
                Err((Scheme::Http, plain))
            }
            Miss::Unreachable(_) | Miss::Silence(_) => Err((Scheme::Http, plain)),
        }
    }

    /// One connection, from its own source, which is steered as long as the connection is under way.
    async fn connect_and_ask(&self, scheme: Scheme) -> Result<(), Miss> {
        let limit = limit(self.left());
        let mut source = self.to;
        source.set_port(0);
        let socket = bound(source).map_err(Miss::Unreachable)?;
        let source = socket.local_addr().map_err(Miss::Unreachable)?;
        let held = socket.as_fd().try_clone_to_owned().map_err(Miss::Unreachable)?;
        let steered = Steered::to(source, held, &self.steer).await.map_err(Miss::Steering)?;
        let answer = tokio::time::timeout(limit, self.ask(scheme, socket)).await;
        steered.end().await.map_err(Miss::Doubtful)?;
        match answer.unwrap_or(Err(Miss::Silence(limit)))? {
            status if status.is_success() || status.is_redirection() => Ok(()),
            status => Err(Miss::Status(status)),
        }
    }

    async fn ask(&self, scheme: Scheme, socket: TcpSocket) -> Result<StatusCode, Miss> {
        let mut stream = socket.connect(self.to).await.map_err(Miss::Unreachable)?;
        stream.write_all(self.preface).await.map_err(Miss::Unreachable)?;
        match scheme {
            Scheme::Any | Scheme::Http => self.request(stream).await,
            #[cfg(feature = "tls")]
            Scheme::Https => {
                let stream = super::probe_tls::connect(stream, self.target.host(), self.to.ip()).await;
                self.request(stream.map_err(|error| no_handshake(&error))?).await
            }
            #[cfg(not(feature = "tls"))]
            Scheme::Https => Err(Miss::NoTls("this build is without TLS".into())),
        }
    }

    /// Sends the request, and reads the head of the answer.
    async fn request(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send) -> Result<StatusCode, Miss> {
        let address = || SocketAddr::new(self.to.ip(), self.to.port()).to_string();
        let request = Request::get(self.target.path())
            .header(HOST, self.target.host().map_or_else(address, str::to_owned))
            .header(USER_AGENT, concat!("cutover-probe/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "*/*")
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| Miss::Foreign(error.to_string()))?;
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(HEADER_MAX).handshake(TokioIo::new(stream)).await?;
        // When the connection ends, `send_request` returns the reason.
        let driven = async {
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            answer = sender.send_request(request) => Ok(answer?.status()),
            never = driven => match never {},
        }
    }
}

/// Steers a source to green, or ends this (`None`).
pub(crate) trait Steer {
    type Done: Future<Output = Result<(), SteeringError>> + Send + 'static;

    /// Begins at once; the future waits for the result.
    fn steer(&self, source: Option<SocketAddr>) -> Self::Done;
}

impl<F, D> Steer for F
where
    F: Fn(Option<SocketAddr>) -> D,
    D: Future<Output = Result<(), SteeringError>> + Send + 'static,
{
    type Done = D;

    fn steer(&self, source: Option<SocketAddr>) -> D {
        self(source)
    }
}

/// A source is steered to green, until [`Steered::end`] or the drop of this value.
struct Steered<'a, S: Steer> {
    steer: &'a S,
    /// Keeps the port of the source ours for as long as it is steered; `None` when steering has ended.
    held: Option<OwnedFd>,
}

impl<'a, S: Steer> Steered<'a, S> {
    async fn to(source: SocketAddr, held: OwnedFd, steer: &'a S) -> Result<Steered<'a, S>, SteeringError> {
        // Made before the call of `steer`, so that steering that fails half-way is taken back as well.
        let steered = Steered { steer, held: Some(held) };
        steer.steer(Some(source)).await?;
        Ok(steered)
    }

    async fn end(mut self) -> Result<(), SteeringError> {
        let (_held, ended) = (self.held.take(), self.steer.steer(None));
        ended.await
    }
}

impl<S: Steer> Drop for Steered<'_, S> {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        let ended = self.steer.steer(None);
        // No caller is left to get the error; the code that steers knows its own errors.
        tokio::spawn(async move {
            let _ = ended.await;
            drop(held);
        });
    }
}

/// Why green did not pass the probe, in words that go on after "generation 2".
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error(transparent)]
    Target(#[from] NoTls),
    #[error("listens on no address with a port, and cannot be probed")]
    NoAddress,
    #[error("the probe {url} cannot be steered: {why}")]
    NotSteered { url: String, why: SteeringError },
    #[error("did not pass the probe {url} in {timeout}: {miss}")]
    Missed { url: String, timeout: String, miss: Miss },
}

impl From<ProbeError> for Failure {
    fn from(error: ProbeError) -> Failure {
        Failure::step(&error)
    }
}

/// Why a connection got no answer that passes.
#[derive(Debug)]
pub(crate) enum Miss {
    /// There was no connection.
    Unreachable(io::Error),
    /// The listener speaks HTTP, and answered with another status.
    Status(StatusCode),
    /// The listener speaks HTTP, but the header of the answer is too large.
    TooLarge,
    /// The answer, if any, is no HTTP; or the listener speaks TLS, but refused the handshake.
    Foreign(String),
    /// The answer, if any, is no TLS.
    NoTls(String),
    /// No answer came for this long.
    Silence(Duration),
    /// An answer may have come, but not from green for certain.
    Doubtful(SteeringError),
    /// The source could not be steered. This is final.
    Steering(SteeringError),
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Miss::Unreachable(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                f.write_str("connection refused")
            }
            Miss::Unreachable(error) => error.fmt(f),
            Miss::Status(status) => match status.canonical_reason() {
                Some(reason) => write!(f, "it answered {} {reason}", status.as_u16()),
                None => write!(f, "it answered {}", status.as_u16()),
            },
            Miss::TooLarge => {
                write!(f, "the header of its answer is larger than {} kB or 100 fields", HEADER_MAX / 1024)
            }
            Miss::Foreign(what) => f.write_str(what),
            Miss::Doubtful(why) | Miss::Steering(why) => why.fmt(f),
            Miss::NoTls(what) => write!(f, "it speaks no TLS: {what}"),
            Miss::Silence(limit) => write!(f, "no answer in {}", shown(*limit)),
        }
    }
}

impl From<hyper::Error> for Miss {
    fn from(error: hyper::Error) -> Miss {
        let io = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        if error.is_parse_too_large() {
            Miss::TooLarge
        } else if error.is_incomplete_message() || io.is_some_and(is_closed) {
            Miss::Foreign("it closed the connection before it answered".into())
        } else if error.is_parse() {
            Miss::Foreign("its answer is no HTTP/1.1".into())
        } else {
            Miss::Foreign(io.map_or_else(|| error.to_string(), io::Error::to_string))
        }
    }
}

/// Whether the peer has closed the connection. A close may arrive as a reset, depending on what the peer had read by
/// then; the difference says nothing.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}

/// Why a TLS handshake failed.
#[cfg(feature = "tls")]
fn no_handshake(error: &io::Error) -> Miss {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => Miss::NoTls("its answer is something else".into()),
        Some(error) => Miss::Foreign(format!("the TLS handshake failed: {error}")),
        None if is_closed(error) => Miss::NoTls("it closed the connection in the handshake".into()),
        None => Miss::NoTls(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
