//! Unix sockets of supervised programs: `run` listens, and each generation gets the listener as from systemd, so that its
//! queue outlives every generation.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::load::{Answer, Load, Mode, Plan, Transport};
use crate::support::run::{Run, Running};
use crate::support::script::Script;

/// A server as for systemd: it takes descriptor 3, which is meant for this very process.
const SERVER: &str = "
assert os.environ['LISTEN_PID'] == str(os.getpid()), os.environ
assert os.environ['LISTEN_FDS'] == '1', os.environ
listener = socket.socket(fileno=3)
stopped = threading.Event()
def stop(*_):
    # Not shutdown(2), which would end the listener for the next generation as well.
    stopped.set()
signal.signal(signal.SIGTERM, stop)
notify('READY=1')
listener.settimeout(0.01)
while not stopped.is_set():
    try:
        client, _ = listener.accept()
    except TimeoutError:
        continue
    client.settimeout(None)
    threading.Thread(target=one, args=(client, lambda: '200 OK')).start()
";
const RELOADS: u64 = 10;
const SOON: Duration = Duration::from_secs(20);

fn socket() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.sock");
    (folder, path)
}

fn load(address: SocketAddr, mode: Mode, answer: Answer) -> Load {
    let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let plan = Plan { transport: Transport::Unix(address), answer, ..Plan::new([nowhere], 16, mode) };
    let load = plan.start();
    load.wait_answered(100, SOON);
    load
}

fn stop(run: &Running) {
    run.signal(run.first_pid(), Signal::TERM);
    assert!(run.wait_exit(SOON).success());
}

#[test]
fn nothing_is_lost_by_a_program_for_systemd() {
    let (_folder, path) = socket();
    let script = Script::new(SERVER);
    let listen = format!("unix:{}", path.display());
    let options = ["--listen", &listen, "--ready", "notify", "--unix-mode", "622"];
    let run = Run::new(script.command()).args(options).ready();
    let metadata = fs::metadata(&path).expect("there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o622);
    assert_eq!(run.status().unix, [listen]);
    let come = load(SocketAddr::from_pathname(&path).expect("short"), Mode::Close, Answer::Pid);
    for generation in 2..=RELOADS + 1 {
        run.reload_to(generation);
        let pid = run.live();
        come.wait_generation(pid.into(), SOON);
    }
    come.stop().assert_nothing_lost();
    stop(&run);
    assert!(!path.exists(), "nothing is left");
}

#[test]
fn nothing_is_lost_by_the_reference_server() {
    let name = format!("cutover-it-run-{}", std::process::id());
    let listen = format!("unix:@{name}");
    let serve = [env!("CARGO_BIN_EXE_cutover"), "serve", "--idle-grace", "1s", "--listen", &listen];
    let run = Run::new(serve).args(["--listen", &listen, "--ready", "notify"]).ready();
    let address = SocketAddr::from_abstract_name(&name).expect("short");
    let loads = [Mode::Close, Mode::KeepAlive].map(|mode| load(address.clone(), mode, Answer::CutoverPage));
    for generation in 2..=RELOADS + 1 {
        run.reload_to(generation);
        loads.iter().for_each(|load| load.wait_generation(generation, SOON));
    }
    for load in loads {
        load.stop().assert_nothing_lost();
    }
    stop(&run);
}

/// The queue is the supervisor's, and no generation takes it along.
#[test]
fn a_connection_that_waits_outlives_its_generation() {
    let (_folder, path) = socket();
    let script = Script::new(SERVER);
    let options = ["--listen", &format!("unix:{}", path.display()), "--ready", "notify"];
    let run = Run::new(script.command()).args(options).args(["--stop-timeout", "1s"]).ready();
    let first = run.live();
    // A process that is stopped accepts nothing.
    run.freeze(first);
    let mut waits = UnixStream::connect(&path).expect("the queue takes it");
    waits.set_read_timeout(Some(SOON)).expect("set");
    waits.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    run.reload_to(2);
    let mut answer = String::new();
    waits.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains(&format!("pid {}\n", run.live())), "{answer}");
}

#[test]
fn what_cannot_be_done_is_said() {
    let (_folder, path) = socket();
    let listen = format!("unix:{}", path.display());
    let script = Script::new(SERVER);
    let run = Run::new(script.command()).args(["--listen", &listen]).spawn();
    run.wait_log("it cannot be seen whether a program listens on a Unix socket", SOON);
    assert_eq!(run.wait_exit(SOON).code(), Some(64));
    let serve = [env!("CARGO_BIN_EXE_cutover"), "serve", "--listen", &listen];
    let run = Run::new(serve).args(["--ready", "notify"]).spawn();
    run.wait_log(&format!("has to be given to `cutover run`: --listen {listen}"), SOON);
}
