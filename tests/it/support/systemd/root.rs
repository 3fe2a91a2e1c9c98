//! The roots from which machines boot. Each is a Debian system that is built once and kept.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

use super::Suite;

/// The version of the roots, which must change with [`PACKAGES`], so that an older root is not used.
const EDITION: u32 = 1;
/// The packages of a root. procps has the `kill` of `ExecReload=/bin/kill`.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,procps";
/// The folders of /usr/share that the tests do not need.
const WITHOUT: [&str; 3] = ["man", "doc", "locale"];

/// Returns the root of this release, and builds it if there is none.
///
/// # Errors
/// A description of the step that failed.
pub fn root(suite: Suite) -> Result<PathBuf, String> {
    let cache = std::env::var_os("CUTOVER_TEST_CACHE").map_or_else(|| "/var/cache/cutover-tests".into(), PathBuf::from);
    let root = cache.join(format!("{}-{EDITION}", suite.name()));
    let during = |what: &str| {
        let what = format!("cannot {what} {}", root.display());
        move |error| format!("{what}: {error}")
    };
    fs::create_dir_all(&cache).map_err(during("make the folder of"))?;
    // The lock lets one process at a time build a root. The kernel releases the lock with the descriptor, and so with
    // the process.
    let lock = File::create(root.with_extension("lock")).map_err(during("make the lock of"))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|errno| during("lock")(errno.into()))?;
    if !root.exists() {
        let half = root.with_extension("half");
        if half.exists() {
            fs::remove_dir_all(&half).map_err(during("remove the half of"))?;
        }
        build(suite, &half)?;
        fs::rename(&half, &root).map_err(during("rename to"))?;
    }
    Ok(root)
}

fn build(suite: Suite, half: &Path) -> Result<(), String> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=essential", &format!("--include={PACKAGES}")]);
    command.args(WITHOUT.map(|folder| format!("--dpkgopt=path-exclude=/usr/share/{folder}/*")));
    command.arg(suite.name()).arg(half).stdin(Stdio::null());
    let done = command.output().map_err(|error| format!("cannot run mmdebstrap: {error}"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    if done.status.success() { Ok(()) } else { Err(format!("{command:?} failed ({}): {}", done.status, said.trim())) }
}
