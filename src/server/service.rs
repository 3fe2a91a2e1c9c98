//! The service of one connection: a clone of one service, or what a make service makes for the connection.

use std::future::{Ready, ready};
use std::pin::Pin;

use hyper_util::service::TowerToHyperService;
use tower::ServiceExt as _;

use super::connection_info::ConnectionInfo;

/// Makes the service of each connection.
pub(super) trait NewService: Clone + Send + Sync + 'static {
    type Service: Send;
    /// Yields `None` if the connection is refused.
    type Making: Future<Output = Option<Self::Service>> + Send;

    fn new_service(self, info: impl FnOnce() -> ConnectionInfo) -> Self::Making;
}

/// The same service for each connection.
#[derive(Clone)]
pub(super) struct Same<S>(pub(super) S);

impl<S: Clone + Send + Sync + 'static> NewService for Same<S> {
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
    M::Response: Send,
{
    type Service = TowerToHyperService<M::Response>;
    type Making = Pin<Box<dyn Future<Output = Option<Self::Service>> + Send>>;

    fn new_service(self, info: impl FnOnce() -> ConnectionInfo) -> Self::Making {
        let making = self.0.oneshot(info());
        // An error is the application's own way to refuse a connection.
        Box::pin(async move { making.await.ok().map(TowerToHyperService::new) })
    }
}
