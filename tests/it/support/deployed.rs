//! A server that runs from its own path, so that a test can replace the file at that path as a deployment does.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::load::{Load, Mode, Plan};
use super::process::{Instance, Start};

/// The script that acts as a faulty next generation.
pub const GREEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/green.sh");
/// An executable file that is not a program.
pub const GARBAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/garbage");
/// A file that is not executable.
pub const PLAIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

const REAL: &str = env!("CARGO_BIN_EXE_cutover");

/// A folder with a program in it.
pub struct Deployed {
    folder: TempDir,
}

impl Deployed {
    pub fn new() -> Deployed {
        let folder = tempfile::Builder::new().prefix("cutover-it-deployed-").tempdir().expect("a folder");
        let deployed = Deployed { folder };
        deployed.put(REAL);
        deployed
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The path by which the server is started.
    pub fn program(&self) -> PathBuf {
        self.folder().join("server")
    }

    /// The file to which `green.sh` writes its results, or for which the script waits.
    pub fn out(&self) -> PathBuf {
        self.folder().join("out")
    }

    /// Replaces the file at the path atomically. The new file is a symlink: no program is written, so exec cannot fail
    /// with ETXTBSY.
    pub fn put(&self, file: &str) {
        let beside = self.folder().join("beside");
        symlink(file, &beside).expect("a symlink");
        fs::rename(&beside, self.program()).expect("renamed over the program");
    }

    pub fn put_real(&self) {
        self.put(REAL);
    }

    pub fn remove(&self) {
        fs::remove_file(self.program()).expect("it was there");
    }

    /// `server serve --listen 127.0.0.1:0`. If [`GREEN`] replaces the program, the next generation behaves as `part`
    /// says.
    pub fn start(&self, part: &str) -> Start {
        Start::program(self.program())
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("GREEN_PART", part)
            .env("GREEN_OUT", self.out())
            .env("GREEN_REAL", REAL)
            .env("GREEN_TEST", std::env::current_exe().expect("this binary"))
    }
}

/// A server under load that must lose no request, whatever happens to its reloads.
pub struct Trial {
    pub deployed: Deployed,
    pub server: Instance,
    load: Load,
}

impl Trial {
    /// Starts the server, and the load.
    pub fn begin(part: &str, options: &[&str]) -> Trial {
        let deployed = Deployed::new();
        let server = deployed.start(part).args(options).ready();
        let load = Plan::new([server.addr()], 8, Mode::Close).start();
        load.wait_answered(10, Duration::from_secs(10));
        Trial { deployed, server, load }
    }

    /// Requests a reload that must fail. The log must give these words as the reason, and the old generation must serve
    /// on alone.
    pub fn fails_with(&self, words: &[&str]) {
        let (mark, pid) = (self.server.mark(), self.server.main_pid());
        self.server.hup();
        let line = self.server.wait_log_after(mark, "reload failed", Duration::from_secs(20));
        for word in words {
            assert!(line.contains(word), "`{word}` is not in: {line}");
        }
        assert!(line.contains("serves on"), "{line}");
        assert_eq!(self.server.main_pid(), pid, "another process was named the main one");
        self.load.wait_answered(20, Duration::from_secs(10));
        assert_eq!(self.server.pids(), [pid], "the failed generation is still there");
    }

    /// Restores the real program. The next reload must succeed, and no request may have been lost since the start.
    pub fn recovers(self) {
        self.deployed.put_real();
        self.server.reload();
        self.load.wait_answered(20, Duration::from_secs(10));
        self.ends_well();
    }

    pub fn ends_well(self) {
        let report = self.load.stop();
        report.assert_nothing_lost();
    }
}
