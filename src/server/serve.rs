//! What a server can serve: HTTP with a tower or a hyper service, or plain TCP.

use http_body::Body;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;

use super::connection_info::ConnectionInfo;
use super::handover::Supply;
use super::listener::Listener;
use super::service::{BoxError, Made, NewService, Same};
use super::{Server, http, listener};
use crate::error::{Error, ErrorKind};
use crate::runtime::accept::Unbounded;

/// Why [`Server::listen`] refuses what comes between the socket and HTTP.
const HTTP_ONLY: &str =
    "TLS, an acceptor and the PROXY protocol are for HTTP: treat each stream of the listener yourself";

impl Server {
    /// Serves HTTP/1 and HTTP/2 with a tower service, such as an axum `Router`. Returns when this generation is gone:
    /// after a request to stop, or when another generation is live and all connections of this one are finished.
    ///
    /// # Errors
    /// If the server cannot start: see [`ErrorKind`]. After the start, nothing is an error; a failed
    /// reload is an [`Event::Reload`](crate::Event::Reload).
    ///
    /// # Cancel safety
    /// Not cancel safe: if the future is dropped, the server continues in the background.
    pub async fn serve<S, B>(self, app: S) -> Result<(), Error>
    where
        S: tower::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError> + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        self.serve_hyper(TowerToHyperService::new(app)).await
    }

    /// Serves HTTP/1 and HTTP/2 with a hyper service; otherwise like [`serve`](Server::serve).
    ///
    /// # Errors
    /// As [`serve`](Server::serve).
    ///
    /// # Cancel safety
    /// As [`serve`](Server::serve).
    pub async fn serve_hyper<S, B>(self, service: S) -> Result<(), Error>
    where
        S: hyper::service::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        self.serve_with(Same(service)).await
    }

    /// Serves HTTP/1 and HTTP/2 with a tower make service, which makes a service for each connection and gets its
    /// [`ConnectionInfo`]; otherwise like [`serve`](Server::serve). An error of the make service closes the connection.
    ///
    /// With the feature `axum`, for `ConnectInfo` in handlers:
    ///
    /// ```no_run
    /// # #[cfg(feature = "axum")]
    /// # async fn example() -> Result<(), cutover::Error> {
    /// use axum::extract::ConnectInfo;
    /// use std::net::SocketAddr;
    ///
    /// let hello = |ConnectInfo(client): ConnectInfo<SocketAddr>| async move { format!("hello, {client}") };
    /// let app = axum::Router::new().route("/", axum::routing::get(hello));
    /// let app = app.into_make_service_with_connect_info::<SocketAddr>();
    /// cutover::Server::bind("127.0.0.1:3000").serve_make_service(app).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`serve`](Server::serve).
    ///
    /// # Cancel safety
    /// As [`serve`](Server::serve).
    pub async fn serve_make_service<M, S, B>(self, make: M) -> Result<(), Error>
    where
        M: tower::Service<ConnectionInfo, Response = S> + Clone + Send + Sync + 'static,
        M::Future: Send,
        S: tower::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError> + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        self.serve_with(Made(make)).await
    }

    async fn serve_with(self, service: impl NewService) -> Result<(), Error> {
        let prepare = |server: &Server| {
            let (layers, supply) = server.make_layers()?;
            Ok((http::sink(service, &server.config, &server.builders, layers), Unbounded, supply))
        };
        let running = self.start(prepare).await?;
        running.gone().await;
        Ok(())
    }

    /// Listens for plain TCP: accept connections from the [`Listener`] until it ends. This call declares the
    /// application ready.
    ///
    /// # Errors
    /// As [`serve`](Server::serve).
    ///
    /// # Cancel safety
    /// Not cancel safe.
    pub async fn listen(self) -> Result<Listener, Error> {
        let (sink, room, accepted) = listener::queue();
        let ahead = room.clone();
        let prepare = |server: &Server| match server.has_layers() {
            false => Ok((sink, ahead, Supply { state: server.state.clone(), ..Supply::default() })),
            true => Err(Error::new(ErrorKind::Config, HTTP_ONLY)),
        };
        let running = self.start(prepare).await?;
        Ok(Listener::new(accepted, room, running))
    }
}
