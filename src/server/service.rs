//! The service of one connection: a clone of one service, or what a make service makes for the connection.

use std::future::{Ready, ready};
use std::pin::Pin;

use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;
use tower::ServiceExt as _;

use super::connection_info::ConnectionInfo;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A service that HTTP can be served with: one name for all that is required of it.
pub(super) trait HttpService:
    Service<Request<Incoming>, Response = Response<Self::ResponseBody>, Error: Into<BoxError>, Future: Send + 'static>
    + Send
    + 'static
{
    type ResponseBody: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> HttpService for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>, Future: Send + 'static>,
    S: Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type ResponseBody = B;
}

/// Makes the service of each connection.
pub(super) trait NewService: Clone + Send + Sync + 'static {
    type Service: HttpService;
    /// Yields `None` if the connection is refused.
    type Making: Future<Output = Option<Self::Service>> + Send;

    fn new_service(self, info: impl FnOnce() -> ConnectionInfo) -> Self::Making;
}

/// The same service for each connection.
#[derive(Clone)]
pub(super) struct Same<S>(pub(super) S);

impl<S: HttpService + Clone + Sync> NewService for Same<S> {
    type Service = S;
    type Making = Ready<Option<S>>;

    fn new_service(self, _: impl FnOnce() -> ConnectionInfo) -> Self::Making {
        ready(Some(self.0))
    }
}

/// A tower make service.
#[derive(Clone)]
pub(super) struct Made<M>(pub(super) M);

impl<M> NewService for Made<M>
where
    M: tower::Service<ConnectionInfo> + Clone + Send + Sync + 'static,
    M::Future: Send,
    TowerToHyperService<M::Response>: HttpService,
{
    type Service = TowerToHyperService<M::Response>;
    type Making = Pin<Box<dyn Future<Output = Option<Self::Service>> + Send>>;

    fn new_service(self, info: impl FnOnce() -> ConnectionInfo) -> Self::Making {
        let making = self.0.oneshot(info());
        // An error is the application's own way to refuse a connection.
        Box::pin(async move { making.await.ok().map(TowerToHyperService::new) })
    }
}
