//! A server that runs from a path of its own, so that a test can put another file there, as a deploy does.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::load::{Load, Mode, Plan};
use super::process::{Instance, Start};

/// The file that plays bad next generations.
pub const GREEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/green.sh");
/// Executable, and no program.
pub const GARBAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/garbage");
/// Not executable.
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

    /// The path that the server is started by.
    pub fn program(&self) -> PathBuf {
        self.folder().join("server")
    }

    /// Where `green.sh` puts what it found out.
    pub fn out(&self) -> PathBuf {
        self.folder().join("out")
    }

    /// Puts another file at the path, in one step. A symlink: nothing is written, so nothing can be busy.
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

    /// `server serve --listen 127.0.0.1:0`, whose next generation plays `part` if [`GREEN`] is put in its place.
    pub fn start(&self, part: &str) -> Start {
        Start::program(self.program())
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("GREEN_PART", part)
            .env("GREEN_OUT", self.out())
            .env("GREEN_REAL", REAL)
            .env("GREEN_TEST", std::env::current_exe().expect("this binary"))
    }
}

/// A server under load that must lose nothing, whatever is done to its reloads.
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

    /// Asks for a reload that must fail with these words, and for the right reason only.
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

    /// With the real program back in its place the next reload works; and in all that time nothing was lost.
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
