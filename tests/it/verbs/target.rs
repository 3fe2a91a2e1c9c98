//! The choice of the instance for a verb; and the verb's behaviour if there is none, if access is denied, or if no
//! process reads the output.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::process::{Instance, Start};
use crate::support::status::{is_serving, status};
use crate::support::verb::{Verb, folder, name, socket};

const SOON: Duration = Duration::from_secs(10);
const VERBS: [&str; 5] = ["status", "reload", "promote", "rollback", "stop"];
/// The name of no instance on this machine.
const NOBODY: &str = "no-such-instance.of-the-tests";

#[test]
fn where_there_is_no_instance() {
    let place = tempfile::tempdir().expect("a folder");
    let stale = place.path().join(format!("{NOBODY}.sock"));
    let fails = |target: &[&str], words: &[&str]| {
        for verb in VERBS {
            Verb::new(verb).within(place.path()).args(target).run().fails(69, words);
        }
    };
    let named = ["--name", NOBODY];
    Verb::new("status").args(named).run().fails(69, &["no instance with the name", NOBODY]);
    Verb::new("status").within(Path::new("/nowhere")).args(named).run().fails(69, &["no instance", NOBODY]);
    fails(&named, &["no instance with the name", NOBODY, place.path().to_str().expect("text")]);
    let at = stale.to_str().expect("text");
    fails(&["--control", at], &["no instance runs at", at, "there is no such socket\n"]);
    // The socket file of a process that is gone.
    drop(UnixListener::bind(&stale).expect("bound"));
    fails(&named, &["no instance with the name", NOBODY]);
    fails(&["--control", at], &["no instance runs at", at, "its process is gone\n"]);
    fails(&["--control", &"/x".repeat(100)], &["too long for a socket"]);
}

#[test]
fn a_killed_instance_is_none() {
    let server = Start::serve().ready();
    server.signal(server.first_pid(), Signal::KILL);
    server.wait_gone(server.first_pid(), SOON);
    assert!(socket(&server).exists(), "its file is left");
    for verb in VERBS {
        Verb::of(verb, &server).run().fails(69, &["no instance with the name", &name(&server)]);
    }
}

#[test]
fn wrong_usage() {
    let wrong: [&[&str]; 12] = [
        &["frobnicate"],
        &["reload", "--frobnicate"],
        &["reload", "now"],
        &["reload", "--timeout"],
        &["reload", "--timeout", "soon"],
        &["reload", "--timeout", "5"],
        &["status", "--watch=often"],
        &["status", "--name"],
        &["stop", "--name", "../web"],
        &["stop", "--name", ""],
        &["promote", "--name", "a", "--control", "b"],
        &["rollback", "--json"],
    ];
    for arguments in wrong {
        let ended = Verb::new(arguments[0]).args(&arguments[1..]).run().with(64);
        assert!(ended.out.is_empty() && !ended.err.is_empty(), "{ended:?}");
    }
}

/// Two instances with a common folder.
fn two(folder: &Path) -> [Instance; 2] {
    let start = |name| Start::serve().args(["--name", name]).env("RUNTIME_DIRECTORY", folder).ready();
    ["one.of-the-tests", "two.of-the-tests"].map(start)
}

#[test]
fn of_several_one_is_named() {
    let place = tempfile::tempdir().expect("a folder");
    let [one, two] = two(place.path());
    let verb = |verb| Verb::new(verb).within(place.path());
    for each in VERBS {
        verb(each).run().fails(64, &["several instances run", "one.of-the-tests", "two.of-the-tests"]);
    }
    let serves = |name: &str, generation| {
        let json = verb("status").args(["--json", "--name", name]).run().with(0).out;
        is_serving(&serde_json::from_str(&json).expect("a status"), generation)
    };
    verb("reload").args(["--name", "two.of-the-tests"]).run().with(0);
    assert_eq!(serves("one.of-the-tests", 1), one.first_pid());
    assert_ne!(serves("two.of-the-tests", 2), two.first_pid());
    let path = place.path().join("one.of-the-tests.sock");
    Verb::new("reload").args([OsStr::new("--control"), path.as_ref()]).run().with(0);
    serves("one.of-the-tests", 2);
    serves("two.of-the-tests", 2);
    let ended = Verb::new("stop").args([OsStr::new("--control"), path.as_ref()]).run().with(0);
    assert!(ended.out.ends_with("instance one.of-the-tests is stopped\n"), "{ended:?}");
    assert_eq!(one.pids(), Vec::<u32>::new());
    serves("two.of-the-tests", 2);
}

#[test]
fn the_only_one_needs_no_name() {
    let server = Start::serve().ready();
    let sockets = fs::read_dir("/run/cutover").into_iter().flatten().flatten();
    // A file that a dead process has left is no instance.
    if sockets.into_iter().any(|socket| std::os::unix::net::UnixStream::connect(socket.path()).is_ok()) {
        return crate::support::skip("an instance runs in /run/cutover, so this test's is not the only one");
    }
    let unnamed = Verb::new("status").within(&folder(&server)).run().with(0);
    assert!(unnamed.out.contains(&format!("instance {}\n", name(&server))), "{unnamed:?}");
}

/// A user who is not root and owns nothing.
const STRANGER: u32 = 65534;

#[test]
fn another_users_instance_is_not_ours() {
    let server = Start::serve().ready();
    if !rustix::process::geteuid().is_root() {
        crate::support::skip("only root can run a verb as another user");
        return;
    }
    // A copy of the program in a folder that every user may enter, wherever the original was built.
    let place = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().expect("a folder");
    let program = place.path().join("cutover");
    fs::copy(env!("CARGO_BIN_EXE_cutover"), &program).expect("copied");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("executable");
    let as_stranger = |verb: &str| Verb::by(&program, verb).with(|command| command.uid(STRANGER).gid(STRANGER));
    let socket = socket(&server);
    let denied = |words: &[&str]| {
        for verb in VERBS {
            as_stranger(verb).args([OsStr::new("--control"), socket.as_ref()]).run().fails(77, words);
        }
    };
    // At first the folder is closed to other users, then only the socket, and at last only the server itself refuses
    // them.
    denied(&["belongs to another user"]);
    as_stranger("status").within(&folder(&server)).args(["--name", &name(&server)]).run().with(77);
    for folder in [server.directory(), &folder(&server)] {
        fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("opened");
    }
    denied(&["belongs to another user"]);
    as_stranger("stop").within(&folder(&server)).args(["--name", &name(&server)]).run().with(77);
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("opened");
    denied(&["only the user that runs this server, and root, may use its control socket"]);
    server.wait_log("refused another user at the control socket", SOON);
    assert_eq!(is_serving(&status(&server), 1), server.first_pid());
    assert_eq!(server.pids(), [server.first_pid()], "somebody was heard");
}

/// A server of the control API whose socket has another user's credentials from listen(2), and whose process is root's
/// by now: a user can get there by listen(2), fork(2), and execve(2) of a set-user-ID program.
const IMPOSTOR: &str = r#"
import json, os, socket, sys
path, victim, status = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
generation = status["generations"][0]
status["generations"] = [{**generation, "pid": victim}, {**generation, "pid": os.getpid()}]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
os.seteuid(65534)
listener.listen()
os.seteuid(0)
print("listens", flush=True)
body = json.dumps(status).encode()
while True:
    client, _ = listener.accept()
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    client.close()
"#;

#[test]
fn a_pid_file_is_not_believed_by_the_word_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        crate::support::skip("only root can listen as another user");
        return;
    }
    let server = Start::serve().ready();
    let status = Verb::of("status", &server).args(["--json"]).run().with(0).out;
    let place = tempfile::tempdir().expect("a folder");
    let socket = place.path().join("web.sock");
    let mut victim = Command::new("sleep").arg("600").spawn().expect("spawned");
    let mut impostor = Command::new("python3");
    impostor.arg("-c").arg(IMPOSTOR).arg(&socket).args([&victim.id().to_string(), &status]).stdout(Stdio::piped());
    let mut impostor = impostor.spawn().expect("spawned");
    let mut line = String::new();
    BufReader::new(impostor.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    assert_eq!(line, "listens\n");
    // Negative control: a verb that names the socket gets the answer.
    let named = Verb::new("status").args([OsStr::new("--control"), socket.as_ref()]).run().with(0).out;
    assert!(named.contains(&victim.id().to_string()), "{named}");
    let pid_file = place.path().join("web.pid");
    fs::write(&pid_file, format!("{}\n", victim.id())).expect("written");
    for verb in VERBS {
        let run = Verb::new(verb).within(place.path()).args([OsStr::new("--pid-file"), pid_file.as_ref()]).run();
        run.fails(69, &["no control socket in the usual folders lists process", &victim.id().to_string()]);
    }
    for child in [&mut victim, &mut impostor] {
        child.kill().and_then(|()| child.wait()).expect("ended");
    }
}

/// No process reads a verb's output: the verb must not panic, and must do its work all the same.
#[test]
fn where_nobody_reads() {
    let server = Start::serve().ready();
    let unread = |verb: Verb| {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        verb.with(|command| command.stdout(writer)).run()
    };
    for arguments in [&["status"][..], &["status", "--json"], &["status", "--watch", "10ms"], &["reload", "--json"]] {
        unread(Verb::of(arguments[0], &server).args(&arguments[1..])).with(0);
    }
    is_serving(&status(&server), 2);
    unread(Verb::of("reload", &server)).with(0);
    is_serving(&status(&server), 3);
    unread(Verb::of("promote", &server)).with(75);
    unread(Verb::new("--help")).with(0);
    // No process reads the reason of the failure either.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    unread(Verb::of("rollback", &server).with(|command| command.stderr(writer))).with(75);
    unread(Verb::of("stop", &server)).with(0);
    assert_eq!(server.pids(), Vec::<u32>::new());
}
