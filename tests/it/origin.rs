//! The next generation is started as the first one was: same arguments, environment, directory *path*, name of the file.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::Duration;

use crate::support::deployed::Deployed;
use crate::support::http_get;
use crate::support::process::{Instance, Start};

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

#[test]
fn what_belongs_to_one_process_is_not_handed_on() {
    let server = Start::serve().env("WATCHDOG_PID", "1").env("LISTEN_FDS", "3").env("LISTEN_PID", "1").env("KEPT", "1");
    let server = server.ready();
    server.reload();
    let environment = of_main(&server, "environ");
    let has = |name: &str| environment.iter().any(|one| one.starts_with(format!("{name}=").as_bytes()));
    assert!(has("KEPT"));
    for name in ["WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"] {
        assert!(!has(name), "{name} has reached the next generation");
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

/// A deploy that flips a symlink: the program is found by the relative name that it was started with, below the path of
/// the directory, both followed anew.
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
