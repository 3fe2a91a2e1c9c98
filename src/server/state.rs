//! Makes the state of the application for the next generation.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::model::handover::FromBlue;
use crate::model::state::STATE_MAX;
use crate::runtime::offload::{Lane, Stalled};

/// How many hooks may run at once. A hook that never returns must not use up a thread for each reload.
const HOOKS: usize = 2;

/// Makes the state for the next generation.
#[derive(Clone)]
pub(crate) struct StateHook {
    version: u32,
    make: Arc<dyn Fn() -> Result<Vec<u8>, String> + Send + Sync>,
    timeout: Duration,
    lane: Lane,
}

impl fmt::Debug for StateHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateHook").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Why a next generation gets no state, in words that go on after "generation 2".
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("was not given the state of the application: the on_handover hook has not returned in {0:?}")]
    Late(Duration),
    #[error("was not given the state of the application: the on_handover hook panicked")]
    Panicked,
    #[error("was not given the state of the application: {0}")]
    Refused(String),
    #[error("was not given the state of the application: it has {0} bytes, and at most {STATE_MAX} are handed over")]
    TooLarge(usize),
}

impl StateHook {
    pub(super) fn new<E: fmt::Display>(
        version: u32,
        hook: impl Fn() -> Result<Vec<u8>, E> + Send + Sync + 'static,
        timeout: Duration,
    ) -> StateHook {
        let make = Arc::new(move || hook().map_err(|why| why.to_string()));
        StateHook { version, make, timeout, lane: Lane::new(HOOKS) }
    }

    pub(super) fn with_timeout(self, timeout: Duration) -> StateHook {
        StateHook { timeout, ..self }
    }

    /// The message with the state, and the bytes that follow the message.
    pub(super) async fn state_of(hook: Option<StateHook>) -> Result<(FromBlue, Vec<u8>), StateError> {
        let Some(StateHook { version, make, timeout, lane }) = hook else { return Ok((FromBlue::NoState, Vec::new())) };
        let made = lane.run_within(timeout, move || make()).await.map_err(|stalled| match stalled {
            Stalled::Late(limit) => StateError::Late(limit),
            Stalled::Panicked => StateError::Panicked,
        })?;
        let bytes = made.map_err(StateError::Refused)?;
        match u64::try_from(bytes.len()) {
            Ok(length) if bytes.len() <= STATE_MAX => Ok((FromBlue::State { version, length }, bytes)),
            Ok(_) | Err(_) => Err(StateError::TooLarge(bytes.len())),
        }
    }
}
