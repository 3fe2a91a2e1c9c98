//! The next generation is started as the first one was: same arguments, environment, directory *path*, name of the file.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::Duration;

use crate::support::deployed::Deployed;
use crate::support::http_get;
use crate::support::process::{Instance, Start};
use crate::support::programs::Port;
use crate::support::run::Run;
use crate::support::script::Script;

const SOON: Duration = Duration::from_secs(10);
const CUTOVER: &str = env!("CARGO_BIN_EXE_cutover");

fn of_main(server: &Instance, file: &str) -> Vec<Vec<u8>> {
    let bytes = fs::read(format!("/proc/{}/{file}", server.main_pid())).expect("the process lives");
    bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
}

#[test]
fn arguments_and_environment_that_are_not_utf8_are_handed_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let odd = OsStr::from_bytes(b"odd-\xff\xfe");
    let root = folder.path().join(odd);
    fs::create_dir(&root).expect("a folder");
    fs::write(root.join("hello"), "from an odd folder").expect("a file");
    let server = Start::serve().arg(&root).env("ODD", odd).ready();
    let first = of_main(&server, "cmdline");
    for _ in 0..2 {
        server.reload();
        assert_eq!(of_main(&server, "cmdline"), first);
        assert!(of_main(&server, "environ").contains(&b"ODD=odd-\xff\xfe".to_vec()));
        assert!(http_get(server.addr(), "/hello").expect("an answer").ends_with("from an odd folder"));
    }
}

/// Environment variables that systemd sets for one process, and for no other.
const OF_ONE_PROCESS: [&str; 8] = [
    "MAINPID",
    "MAINPIDFDID",
    "WATCHDOG_PID",
    "SYSTEMD_EXEC_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
];

/// Variables of the service, which each generation has.
const OF_THE_SERVICE: [&str; 6] =
    ["KEPT", "CREDENTIALS_DIRECTORY", "INVOCATION_ID", "JOURNAL_STREAM", "MANAGERPID", "FDSTORE"];

fn with_all_of_them(start: Start) -> Start {
    OF_ONE_PROCESS.iter().chain(&OF_THE_SERVICE).fold(start, |start, name| start.env(name, "1"))
}

#[test]
fn what_belongs_to_one_process_is_not_handed_on() {
    let server = with_all_of_them(Start::serve()).ready();
    server.reload();
    let environment = of_main(&server, "environ");
    let has = |name: &str| environment.iter().any(|one| one.starts_with(format!("{name}=").as_bytes()));
    for name in OF_THE_SERVICE {
        assert!(has(name), "{name}");
    }
    for name in OF_ONE_PROCESS {
        assert!(!has(name), "{name}");
    }
}

#[test]
fn what_belongs_to_one_process_does_not_reach_a_program_that_is_run() {
    let says = "print('environment', ' '.join(os.environ), flush=True)\nserve(sys.argv[1])";
    let (port, script) = (Port::free(), Script::new(says));
    let run = Run::at(port.address, script.at(port.address)).with(with_all_of_them).ready();
    let environment = run.wait_log("environment ", SOON);
    let has = |name: &str| environment.split(' ').any(|word| word == name);
    for name in OF_THE_SERVICE {
        assert!(has(name), "{name}: {environment}");
    }
    for name in OF_ONE_PROCESS {
        assert!(!has(name), "{name}: {environment}");
    }
}

#[test]
fn what_belongs_to_one_process_does_not_reach_a_check() {
    let (port, script) = (Port::free(), Script::server());
    let check = ["--preflight", "sh -c 'echo environment $(env | cut -d= -f1)'"];
    let run = Run::at(port.address, script.at(port.address)).args(check).with(with_all_of_them).ready();
    run.reload_to(2);
    let environment = run.wait_log("environment ", SOON);
    let has = |name: &str| environment.split(' ').any(|word| word == name);
    assert!(has("KEPT"), "{environment}");
    for name in OF_ONE_PROCESS {
        assert!(!has(name), "{name}: {environment}");
    }
}

/// An application may notify the service manager itself, in each generation as in the first one.
#[test]
fn the_socket_of_the_service_manager_is_the_same_in_each_generation() {
    let server = Start::serve().ready();
    let socket = |server: &Instance| {
        let environment = of_main(server, "environ");
        let found = environment.iter().find_map(|one| one.strip_prefix(b"NOTIFY_SOCKET="));
        String::from_utf8(found.expect("it has one").to_vec()).expect("text")
    };
    let first = socket(&server);
    assert_eq!(first, server.notify_path().to_str().expect("text"));
    for _ in 0..2 {
        server.reload();
        assert_eq!(socket(&server), first);
    }
}

#[test]
fn a_deleted_working_directory_is_named_and_the_old_generation_serves_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let inside = folder.path().join("inside");
    fs::create_dir(&inside).expect("a folder");
    let server = Start::serve().current_dir(&inside).env("PWD", &inside).ready();
    fs::remove_dir(&inside).expect("removed");
    server.hup();
    let line = server.wait_log("reload failed", SOON);
    assert!(line.contains("the start directory") && line.contains(inside.to_str().expect("text")), "{line}");
    assert!(http_get(server.addr(), "/").expect("an answer").contains("generation 1"));
    fs::create_dir(&inside).expect("a folder");
    server.reload();
}

/// A deploy that flips a symlink: the program is found by the relative name of the first start, below the path of the
/// directory. Both are resolved anew.
#[test]
fn symlinks_are_followed_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    for release in ["one", "two"] {
        let release = folder.path().join(release);
        fs::create_dir(&release).expect("a folder");
        symlink(CUTOVER, release.join("server")).expect("a symlink");
    }
    let current = folder.path().join("current");
    symlink("one", &current).expect("a symlink");
    let args = ["serve", "--listen", "127.0.0.1:0"];
    let server = Start::program("./server").args(args).current_dir(&current).env("PWD", &current).ready();
    let directory = || fs::read_link(format!("/proc/{}/cwd", server.main_pid())).expect("the process lives");
    assert!(directory().ends_with("one"));
    fs::remove_file(&current).expect("removed");
    symlink("two", &current).expect("flipped");
    server.reload();
    assert!(directory().ends_with("two"));
}

#[test]
fn a_program_in_path_is_looked_up_again() {
    let deployed = Deployed::new();
    let path = OsString::from(format!("{}:/usr/bin:/bin", deployed.folder().display()));
    let args = ["server", "serve", "--listen", "127.0.0.1:0"];
    let server = Start::program("/usr/bin/env").args(args).env("PATH", &path).ready();
    deployed.remove();
    server.hup();
    server.wait_log("the executable server is not in PATH", SOON);
    deployed.put_real();
    server.reload();
}
