//! `deploy/Dockerfile`: an image with only the program in it, and the program's behaviour there.

use std::time::Duration;

use super::{SOON, run_serve};
use crate::support::docker::{Container, Engine};
use crate::support::http_get;
use crate::support::systemd::said;

/// Docker's default stop timeout, after which `docker stop` kills.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn has_the_program_and_nothing_else() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.cutover() else { return };
    let size: u64 = engine.must(&["inspect", "--format", "{{.Size}}", image]).parse().expect("a number");
    println!("the image has {size} bytes");
    assert!(size < 13_000_000, "{size} bytes");

    let container = Container::of(engine, engine.must(&["create", image]));
    let paths = engine.command(&["export", container.id()]).output().expect("run timeout(1)");
    let archive = tempfile::NamedTempFile::new().expect("make a file");
    std::fs::write(archive.path(), paths.stdout).expect("write it");
    let list = std::process::Command::new("tar").arg("--list").arg("--file").arg(archive.path()).output();
    let list = String::from_utf8_lossy(&list.expect("run tar").stdout).into_owned();
    // Docker's own folders and files, for its mounts.
    let docker = ["dev/", "etc/", "proc/", "sys/", ".dockerenv"];
    let own: Vec<&str> = list.lines().filter(|path| !docker.iter().any(|start| path.starts_with(start))).collect();
    assert_eq!(own, ["cutover", "run/", "run/cutover/"], "{list}");
}

#[test]
fn says_what_it_can_do() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.cutover() else { return };
    for words in [&["--help"][..], &[]] {
        let said = engine.must(&[&["run", "--rm", "--pull", "never", image], words].concat());
        assert!(said.contains("Usage: cutover") && said.contains("doctor"), "{words:?}: {said}");
    }
}

#[test]
fn serves_and_is_stopped() {
    let Some(engine) = Engine::running() else { return };
    let Some(container) = run_serve(engine, &["--publish", "8080"]) else { return };
    let page = engine.in_network(|| http_get(container.published(8080), "/")).expect("an answer");
    assert!(page.contains(" 200 ") && page.contains("pid 1\n"), "{page}");

    let processes = container.processes();
    assert_eq!(processes.iter().map(|process| (process.pid, process.uid)).collect::<Vec<_>>(), [(1, 65532)]);
    println!("process 1 has {} bytes in memory", container.resident_bytes());

    let (took, code) = container.stop();
    assert_eq!(code, 0, "{}", container.logs());
    assert!(took < PATIENCE, "{took:?}\n{}", container.logs());
}

#[test]
fn listens_below_1024_though_it_is_not_root() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.cutover() else { return };
    let container = engine.run(&["--publish", "80"], image, &["serve", "--listen", "0.0.0.0:80"]);
    container.wait_log(" live generation=1 ", SOON);
    engine.in_network(|| http_get(container.published(80), "/")).expect("an answer");
}

/// The control socket works with a writable and with a read-only root, for the image's own user and for others.
#[test]
fn is_asked_from_inside() {
    let Some(engine) = Engine::running() else { return };
    let read_only = &["--read-only", "--tmpfs", "/run/cutover"][..];
    for options in [&[][..], &["--user", "0"], read_only, &[read_only, &["--user", "1234"]].concat()] {
        let Some(container) = run_serve(engine, options) else { return };
        let status = container.exec(&["/cutover", "status"]);
        assert!(status.status.success(), "{options:?}: {}\n{}", said(&status), container.logs());
        assert!(said(&status).contains("steered"), "{options:?}: {}", said(&status));
    }
}

/// Docker's seccomp profile and capabilities forbid nothing that cutover needs, for any user.
#[test]
fn is_fit_for_it() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.cutover() else { return };
    for options in [&[][..], &["--user", "0"], &["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]] {
        let run = ["run", "--rm", "--pull", "never"];
        let findings = engine.must(&[&run, options, &[image, "doctor"]].concat());
        assert_only_copies_are_refused(&findings);
        assert!(
            findings.contains("steering: steered") && findings.contains("tcp_migrate_req: 0, and not needed"),
            "{findings}"
        );
    }
}

/// Asserts that pidfd_getfd(2) is the only finding: Docker's seccomp profile refuses that call, and `cutover run` has
/// another way.
#[track_caller]
pub(super) fn assert_only_copies_are_refused(findings: &str) {
    let amiss: Vec<&str> = findings.lines().filter(|line| !line.starts_with("ok ")).collect();
    assert!(matches!(amiss[..], [line] if line.starts_with("note") && line.contains(" pidfd_getfd: ")), "{findings}");
}

/// The Dockerfile of docs/containers.md, for a server of one's own. Here this server is cutover, which needs the verb
/// `serve`.
#[test]
fn is_the_base_of_your_own() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.cutover() else { return };
    let page = include_str!("../../../docs/containers.md");
    let (_, block) = page.split_once("```dockerfile\n").expect("a Dockerfile");
    let (dockerfile, _) = block.split_once("```").expect("its end");
    assert!(dockerfile.starts_with("FROM cutover\n"), "{dockerfile}");
    engine.build("cutover-it-own", &dockerfile.replace("FROM cutover\n", &format!("FROM {image}\n")));

    // The image inherits no command: without one, the server does not get `--help`.
    let command = engine.must(&["inspect", "--format", "{{json .Config.Cmd}}", "cutover-it-own"]);
    assert_eq!(command, "null");
    let words = ["serve", "--listen", "0.0.0.0:8080"];
    let container = engine.run(&["--publish", "8080"], "cutover-it-own", &words);
    container.wait_log(" phase=serving", SOON);
    let page = engine.in_network(|| http_get(container.published(8080), "/")).expect("an answer");
    assert!(page.contains("generation 1\n"), "{page}");
    let processes = container.processes();
    let names: Vec<_> = processes.iter().map(|process| (process.name.as_str(), process.uid)).collect();
    assert_eq!(names, [("cutover", 65532), ("server", 65532)]);
}
