//! What a server can serve: HTTP with a tower or a hyper service, or plain TCP.

use http_body::Body;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;

use super::http::BoxError;
use super::listener::Listener;
use super::{Server, http, listener};
use crate::error::Error;
use crate::runtime::accept::Unbounded;

impl Server {
    /// Serves HTTP/1 and HTTP/2 with a tower service, such as an axum `Router`. Returns when this generation is gone:
    /// after a request to stop, or when another generation is live and all connections of this one are finished.
    ///
    /// # Errors
    /// If the server cannot start: see [`ErrorKind`](crate::ErrorKind). After the start, nothing is an error; a failed
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
        let sink = http::sink(service, &self.config);
        let running = self.start(sink, Unbounded).await?;
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
        let running = self.start(sink, room.clone()).await?;
        Ok(Listener::new(accepted, room, running))
    }
}
