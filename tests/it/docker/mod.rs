//! Containers: a real Docker engine, and the image of `deploy/Dockerfile`. Needs root.

mod compose;
mod image;
mod rig;
mod run;

use std::time::Duration;

use crate::support::docker::{Container, Engine};

const SOON: Duration = Duration::from_secs(30);

/// The program itself as the server. `None`, reported as skipped, where its image cannot be had.
#[track_caller]
fn run_serve(engine: &'static Engine, options: &[&str]) -> Option<Container> {
    let container = engine.run(options, engine.cutover()?, &["serve", "--listen", "0.0.0.0:8080"]);
    container.wait_log(" live generation=1 ", SOON);
    Some(container)
}
