//! The state of the application that goes from generation to generation.

use std::fmt;
use std::time::Duration;

use super::Server;
use super::state::StateHook;
use crate::model::identity::Generation;

/// The state that the previous generation has handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inherited {
    /// The version that the previous generation has given to [`Server::on_handover`].
    pub version: u32,
    /// The state, as the hook of the previous generation has made it.
    pub bytes: Vec<u8>,
    /// The generation that has made the state.
    pub from: Generation,
}

impl Server {
    /// Sets a hook that makes the state for the next generation, at most 64 MiB, when that generation asks for the state
    /// by [`inherited`](Server::inherited). Default: there is no state.
    ///
    /// `version` tells the next generation the format of the bytes: after a deployment it may be another program. The
    /// state is that of the moment of the call; this generation goes on serving until the next one is live, and finishes
    /// its connections afterwards.
    ///
    /// The hook runs on a thread of its own and may block. If the hook returns an error, panics, or has not returned
    /// after the [`handover_timeout`](Server::handover_timeout), the next generation is ended and this generation
    /// continues to serve. Under `cutover run` generations do not hand over state.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), cutover::Error> {
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use std::sync::Arc;
    ///
    /// const VERSION: u32 = 1;
    /// let visits = Arc::new(AtomicU64::new(0));
    /// let counted = visits.clone();
    /// let mut server = cutover::Server::bind("127.0.0.1:3000").on_handover(VERSION, move || {
    ///     Ok::<_, std::convert::Infallible>(counted.load(Ordering::Relaxed).to_le_bytes().to_vec())
    /// });
    /// if let Some(state) = server.inherited().await.filter(|state| state.version == VERSION) {
    ///     let bytes = state.bytes.try_into().expect("eight bytes in this version");
    ///     visits.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
    /// }
    /// server.serve(axum::Router::new()).await
    /// # }
    /// ```
    pub fn on_handover<E: fmt::Display>(
        mut self,
        version: u32,
        hook: impl Fn() -> Result<Vec<u8>, E> + Send + Sync + 'static,
    ) -> Server {
        self.state = Some(StateHook::new(version, hook, self.config.handover_timeout));
        self
    }

    /// Sets how long the hook of [`on_handover`](Server::on_handover) may take. Default: 10 s.
    pub fn handover_timeout(mut self, timeout: Duration) -> Server {
        self.config.handover_timeout = timeout;
        self.state = self.state.map(|state| state.with_timeout(timeout));
        self
    }

    /// The state that the hook of the previous generation has made; `None` if there is no previous generation, if it has
    /// no hook, or if it ends meanwhile. Each call asks anew.
    ///
    /// # Cancel safety
    /// Not cancel safe: the state may be read in part, and this generation then cannot start.
    pub async fn inherited(&mut self) -> Option<Inherited> {
        let (role, mut blue) = self.take_role().ok()?;
        let from = role.spawn_info().map(|spawn_info| spawn_info.blue_generation);
        let state = match &mut blue {
            Some(blue) => blue.state().await,
            None => None,
        };
        self.role = Some((role, blue));
        let (version, bytes) = state?;
        Some(Inherited { version, bytes, from: from? })
    }
}
