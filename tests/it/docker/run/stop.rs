//! `docker stop`: all requests in progress are finished, and the container ends in time, at every stage of a rollout.

use std::time::Duration;

use super::{Download, SOON, folder_with_long, mount, reload_to, run_serve};
use crate::support::docker::{Container, Engine};

/// Docker's stop timeout in seconds, after which Docker kills: longer than a stop takes.
const PATIENCE: &[&str] = &["--stop-timeout", "30"];

/// Stops the container during these downloads, which the test reads only after the drain has begun.
fn stops_after(engine: &'static Engine, container: Container, downloads: Vec<Download>) {
    let mark = container.mark();
    let (took, code) = std::thread::scope(|scope| {
        let stop = scope.spawn(|| container.stop());
        container.wait_log_after(mark, "draining", SOON);
        downloads.into_iter().for_each(Download::finish);
        stop.join().expect("it is stopped")
    });
    assert_eq!(code, 0, "{}", container.logs());
    assert!(took < Duration::from_secs(30), "{took:?}: {}", container.logs());
    assert!(!container.logs().contains("killing"), "{}", container.logs());
    engine.wait("no process", SOON, || container.processes().is_empty());
}

#[test]
fn a_slow_request_is_answered() {
    let Some(engine) = Engine::running() else { return };
    let folder = folder_with_long();
    let mount = mount(&folder);
    let options = [PATIENCE, &["--mount", &mount]].concat();
    let Some(container) = run_serve(engine, &options, &["/srv"]) else { return };
    let download = Download::begin(engine, &container);
    stops_after(engine, container, vec![download]);
}

#[test]
fn slow_requests_of_older_generations_are_answered() {
    let Some(engine) = Engine::running() else { return };
    let folder = folder_with_long();
    let mount = mount(&folder);
    let options = [PATIENCE, &["--mount", &mount]].concat();
    let Some(container) = run_serve(engine, &options, &["/srv"]) else { return };
    let mut downloads = vec![Download::begin(engine, &container)];
    for generation in 2..=3 {
        reload_to(&container, generation);
        downloads.push(Download::begin(engine, &container));
    }
    assert_eq!(container.processes().len(), 4, "{:?}", container.processes());
    stops_after(engine, container, downloads);
}

/// The next generation, which is not ready yet, ends too.
#[test]
fn in_the_middle_of_a_rollout() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.cutover() else { return };
    let folder = folder_with_long();
    let mount = mount(&folder);
    let options = [&["--publish", "8080", "--mount", &mount], PATIENCE].concat();
    let server = ["--", "/cutover", "serve", "--listen", "0.0.0.0:8080", "/srv"];
    let run = [&["run", "--listen", "0.0.0.0:8080", "--ready", "delay:3s"], &server[..]].concat();
    let container = engine.run(&options, image, &run);
    container.wait_log(" phase=serving", SOON);
    let download = Download::begin(engine, &container);
    let mark = container.mark();
    container.kill("HUP");
    container.wait_log_after(mark, "spawned generation=2 ", SOON);
    stops_after(engine, container, vec![download]);
}

/// A stop before the first generation is ready.
#[test]
fn before_it_has_begun() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.cutover() else { return };
    let server = ["/cutover", "serve", "--listen", "0.0.0.0:8080"];
    let run = [&["run", "--listen", "0.0.0.0:8080", "--ready", "delay:20s", "--"], &server[..]].concat();
    let container = engine.run(PATIENCE, image, &run);
    // The server serves already, and logs that itself.
    container.wait_log(" live generation=1 ", SOON);
    let (took, code) = container.stop();
    assert_eq!(code, 0, "{}", container.logs());
    assert!(took < Duration::from_secs(15), "{took:?}: {}", container.logs());
}
