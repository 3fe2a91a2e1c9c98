//! `docker exec CONTAINER /cutover VERB`.

use std::fs;

use super::{SOON, folder, live, mount};
use crate::support::docker::Engine;
use crate::support::systemd::said;

#[test]
fn reload_waits_and_says_how_it_went() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.cutover() else { return };
    let root = folder();
    let server = root.path().join("server");
    fs::copy(engine.program(), &server).expect("copy the program");
    let words = ["run", "--listen", "0.0.0.0:8080", "--", "/srv/server", "serve", "--listen", "0.0.0.0:8080"];
    let container = live(engine.run(&["--mount", &mount(&root)], image, &words));

    let done = container.exec(&["/cutover", "reload", "--drain"]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let told = said(&done);
    assert!(told.contains("generation 2 is live") && told.contains("the old generation is gone"), "{told}");
    // After the drain only the new generation is left.
    let processes = container.processes();
    assert_eq!(processes.len(), 2, "{processes:?}");
    let status = said(&container.exec(&["/cutover", "status"]));
    let row = format!("\n2           {} ", processes[1].pid);
    assert!(status.contains("instance 0.0.0.0:8080\n") && status.contains(&row), "{status}");

    fs::remove_file(&server).expect("take it away");
    let failed = container.exec(&["/cutover", "reload"]);
    assert_eq!(failed.status.code(), Some(75), "{}", said(&failed));
    let told = String::from_utf8_lossy(&failed.stderr);
    assert!(told.contains("/srv/server cannot be found") && told.contains("generation 2 serves on"), "{told}");

    let stopped = container.exec(&["/cutover", "stop"]);
    // The end of process 1 ends all processes of the container: SIGKILL may reach the verb before or after its answer.
    assert!(matches!(stopped.status.code(), Some(0 | 137)), "{}", said(&stopped));
    assert_eq!(container.wait(SOON), 0, "{}", container.logs());
}
