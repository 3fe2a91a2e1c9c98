//! A next generation that cannot even make its server.

use std::fmt;

use super::handover::Blue;
use crate::runtime::role::Role;
use crate::sys::launch::Launch;

/// Tells the previous generation why this process cannot start, so that the reason becomes the outcome of the reload
/// instead of an exit status.
///
/// For what fails before there is a [`Server`](crate::Server), such as a configuration file that cannot be read: call this
/// function, and end the process. The errors of [`serve`](crate::Server::serve) and [`listen`](crate::Server::listen) are
/// told by these functions. In a process that no generation has started, the function does nothing.
///
/// Returns when the previous generation has the reason, or after five seconds. Needs a runtime of tokio. Cancel safe.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let address = match std::fs::read_to_string("address") {
///     Ok(address) => address,
///     Err(error) => {
///         cutover::fail_start(format_args!("cannot read the address: {error}")).await;
///         return Err(error.into());
///     }
/// };
/// cutover::Server::bind(address.trim()).serve(axum::Router::new()).await?;
/// # Ok(())
/// # }
/// ```
pub async fn fail_start(reason: impl fmt::Display) {
    let (_, blue) = Role::find(&Launch::capture());
    if let Some(Ok(blue)) = blue.map(Blue::new) {
        blue.tell_failure(reason.to_string()).await;
    }
}
