//! `deploy/compose.yaml`: docker-compose accepts the file, and its parts fit together.

use std::fs;
use std::path::Path;

use super::SOON;
use super::image::assert_only_copies_are_refused;
use super::run::folder;
use crate::support::docker::{Container, Engine};
use crate::support::http_get;
use crate::support::skip;
use crate::support::systemd::said;

/// Overrides for the test. The server is this program, which needs the verb `serve`; the health check runs more often,
/// and the limit of descriptors is one that this machine allows.
const HERE: &str = "
services:
  web:
    image: IMAGE
    command: [serve, --listen, 0.0.0.0:8080]
    volumes: [{ type: bind, source: FOLDER, target: /srv, read_only: true }]
    healthcheck: { interval: 200ms }
    ulimits: { nofile: { soft: 10000, hard: 10000 } }
";

#[test]
fn is_read() {
    let Some(engine) = Engine::running() else { return };
    let Some(config) = compose(engine, &["config"]) else { return };
    for part in ["/srv/current/server", "stop_grace_period: 30s", "/run/cutover", "init: false"] {
        assert!(config.contains(part), "no {part} in: {config}");
    }
}

#[test]
fn is_up_healthy_and_down() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.cutover() else { return };
    let root = folder();
    release(root.path(), "good", engine);
    let here = root.path().join("here.yaml");
    let text = HERE.replace("IMAGE", image).replace("FOLDER", &root.path().display().to_string());
    fs::write(&here, text).expect("write a file");
    let here = here.display().to_string();
    let compose = |words: &[&str]| compose(engine, &[&["--file", &here, "--project-name", "it"], words].concat());

    if compose(&["up", "--detach"]).is_none() {
        return;
    }
    let container = Container::of(engine, compose(&["ps", "--quiet"]).expect("it was there").trim());
    container.wait_log(" phase=serving", SOON);
    engine.wait("healthy", SOON, || container.inspect("{{.State.Health.Status}}") == "healthy");
    let page = || engine.in_network(|| http_get(container.published(8080), "/")).expect("an answer");
    assert!(page().contains("generation 1\n"), "{}", page());

    // The commands from the comments at the head of the file.
    compose(&["exec", "-T", "web", "/cutover", "reload"]);
    assert!(page().contains("generation 2\n"), "{}", page());
    release(root.path(), "broken", engine);
    fs::write(root.path().join("broken/server"), "no program\n").expect("break it");
    let mark = container.mark();
    compose(&["kill", "-s", "HUP", "web"]);
    container.wait_log_after(mark, "generation 2 serves on", SOON);
    release(root.path(), "better", engine);
    compose(&["kill", "-s", "HUP", "web"]);
    container.wait_log("generation 4 is live", SOON);
    assert!(page().contains("generation 4\n"), "{}", page());
    let findings = said(&container.exec(&["/cutover", "doctor"]));
    assert!(findings.contains("steering: steered"), "{findings}");
    assert!(findings.contains("descriptors: this user may have 10000"), "{findings}");
    assert_only_copies_are_refused(&findings);

    compose(&["stop"]);
    assert_eq!(container.exit_code(), 0, "{}", container.logs());
    assert_eq!(container.inspect("{{.RestartCount}}"), "0");
    compose(&["down"]);
}

/// Makes a new release the target of `current`, as `deploy/deploy.sh` does.
fn release(root: &Path, name: &str, engine: &Engine) {
    fs::create_dir(root.join(name)).expect("make a folder");
    fs::copy(engine.program(), root.join(name).join("server")).expect("copy the program");
    std::os::unix::fs::symlink(name, root.join("current.new")).expect("make a symlink");
    fs::rename(root.join("current.new"), root.join("current")).expect("flip it");
}

/// The output; `None`, reported as skipped, where there is no docker-compose.
#[track_caller]
fn compose(engine: &Engine, words: &[&str]) -> Option<String> {
    let done = engine.compose(words).output().expect("run timeout(1)");
    // timeout(1) exits with 127 if it cannot find the program.
    if done.status.code() == Some(127) {
        skip("there is no docker-compose");
        return None;
    }
    assert!(done.status.success(), "{words:?}: {}\n{}", done.status, said(&done));
    Some(String::from_utf8_lossy(&done.stdout).into_owned())
}
