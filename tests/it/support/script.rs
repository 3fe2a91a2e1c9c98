//! Small programs that a test writes: Python code appended to `script.py`, or any executable file.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

const COMMON: &str = include_str!("script.py");

/// The code of a server that makes itself a daemon.
pub const DAEMON: &str = "
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
serve(sys.argv[1])
";

/// A Python program in its own folder.
pub struct Script {
    folder: TempDir,
}

impl Script {
    /// Writes a program whose first argument is a port.
    pub fn new(text: &str) -> Script {
        let script = Script { folder: tempfile::tempdir().expect("a folder") };
        script.deploy(text);
        script
    }

    /// A server that answers each request with its pid, and ends at SIGTERM.
    pub fn server() -> Script {
        Script::new("serve(sys.argv[1])")
    }

    /// Replaces the program by a rename, as a deployment does.
    pub fn deploy(&self, text: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, format!("{COMMON}\n\n{text}\n")).expect("written");
        std::fs::rename(new, self.path()).expect("renamed");
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("program.py")
    }

    /// The path of a file beside the program, by which the program and the test communicate.
    pub fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub fn command(&self) -> Vec<String> {
        // Python must be executable for any user. A python3 in PATH may belong to one user, or be a script around it.
        let system = Path::new("/usr/bin/python3");
        let python = if system.exists() { system } else { Path::new("python3") };
        [python, &self.path()].map(|path| path.display().to_string()).to_vec()
    }

    pub fn at(&self, address: SocketAddr) -> Vec<String> {
        [self.command(), vec![address.port().to_string()]].concat()
    }
}

/// Writes an executable file in a separate process. A child that another test's thread forks meanwhile would inherit a
/// file that this process has open for writing, and the file could not be executed (ETXTBSY).
#[track_caller]
pub fn executable(path: &Path, text: &str) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "cat >\"$0.new\" && chmod 755 \"$0.new\" && mv \"$0.new\" \"$0\""]).arg(path);
    let mut shell = command.stdin(Stdio::piped()).spawn().expect("a shell");
    shell.stdin.take().expect("its stdin").write_all(text.as_bytes()).expect("written");
    assert!(shell.wait().expect("our own child").success());
}
