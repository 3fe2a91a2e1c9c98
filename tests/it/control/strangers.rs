//! Requests of another user at the control socket.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use crate::support::http_get;
use crate::support::process::Start;
use crate::support::raw_control::{Raw, request};

const SOON: Duration = Duration::from_secs(10);
const NOBODY: u32 = 65534;
const SOCKET: &str = "CONTROL_SOCKET";

/// Entry point of the process that another user runs; does nothing in a normal run of the tests.
#[test]
fn asks_as_whoever_runs_it() {
    let Some(path) = std::env::var_os(SOCKET) else { return };
    let control = Raw::at(path);
    for (method, target) in [("GET", "/v1/status"), ("POST", "/v1/reload"), ("POST", "/v1/stop")] {
        let (answer, _) = control.write_and_read(request(method, target).as_bytes());
        println!("answer: {answer:?}");
        let answer = control.try_ask(method, target).expect("a whole answer");
        answer.refuses(403, &["only the user that runs this server"]);
    }
    println!("all refused");
}

#[test]
fn another_user_is_refused_and_logged() {
    if !rustix::process::geteuid().is_root() {
        crate::support::skip("only root can become another user");
        return;
    }
    // A folder that all users may read.
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().expect("a folder");
    let server = Start::serve().env("RUNTIME_DIRECTORY", folder.path()).ready();
    let path = folder.path().join(format!("{}.sock", server.addr()));
    let control = Raw::at(&path);
    let play = || {
        // The kernel's link is used because the folders of this binary may be closed to other users.
        let mut command = Command::new("/proc/self/exe");
        command.args(["--exact", "control::strangers::asks_as_whoever_runs_it", "--nocapture"]).env(SOCKET, &path);
        let output = command.current_dir("/").uid(NOBODY).gid(NOBODY).output().expect("it runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // The mode of the file alone keeps the other user out.
    let (_, said) = play();
    assert!(!said.contains("answer:") && !said.contains("all refused"), "{said}");
    assert!(!server.log_contains("refused another user"));
    // If the mode lets the other user connect, the server checks who the peer is.
    std::fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("set");
    let (success, said) = play();
    assert!(success && said.contains("all refused"), "{said}");
    let line = server.wait_log("refused another user at the control socket", SOON);
    assert!(line.contains(&format!("uid={NOBODY}")) && line.contains("WARN"), "{line}");
    assert!(!server.log_contains("reloading"));
    let status = control.status();
    assert_eq!((&status["generations"][0]["pid"], &status["rollout"]), (&server.first_pid().into(), &().into()));
    assert!(http_get(server.addr(), "/").is_ok());
    assert_eq!(control.reload().done()["generation"], 2);
    // All lines that were logged before this one have been read by now.
    server.wait_log(" live generation=2 ", SOON);
    assert_eq!(server.count_log("refused another user"), 6);
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600, "closed again");
}
