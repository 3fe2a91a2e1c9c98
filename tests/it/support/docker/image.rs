//! The images of the tests. No image can be pulled, so each is built of local files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::super::systemd::{Suite, root, said};
use super::Engine;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
const CUTOVER: &str = "cutover-it";
const DEBIAN: &str = "cutover-it-debian";
const PERL: &str = "cutover-it-perl";
/// The arguments of cargo in `deploy/Dockerfile`. The tests run the real cargo with them, in a cheaper profile.
const BUILD: [&str; 10] = [
    "rustc",
    "--locked",
    "--release",
    "--features",
    "cli",
    "--bin",
    "cutover",
    "--",
    "-Ctarget-feature=+crt-static",
    "-Cstrip=symbols",
];
/// The name and the Dockerfile of a substitute for the image in which `deploy/Dockerfile` builds. The substitute's
/// cargo only copies a program that is already built.
const STAND_IN: (&str, &str) =
    ("rust:1-slim", "FROM cutover-it-debian\nCOPY cargo /usr/local/bin/cargo\nCOPY cutover /built/cutover\n");
/// The substitute's cargo. It fails unless its arguments are those of [`BUILD`], and the build context has the files of
/// the repository without `target` and `.git`.
const CARGO: &str = "#!/bin/sh
[ \"$*\" = \"$ASKED\" ] || { echo \"cargo was asked: $*\"; exit 1; }
[ -f Cargo.lock ] && [ -d src ] && [ ! -e target ] && [ ! -e .git ] || { ls -A; exit 1; }
mkdir -p target/release && cp /built/cutover target/release/
";

/// The Dockerfile of an image as a user builds it, which copies `cutover` from our image.
const OF_A_USER: &str = "FROM cutover-it-debian
COPY --from=cutover-it /cutover /cutover
COPY server.pl /server.pl
RUN mkdir -m 1777 /run/cutover
ENV RUNTIME_DIRECTORY=/run/cutover
USER 65532:65532
ENTRYPOINT [\"/cutover\"]
";

/// The images that have been built. Each is built once for each engine.
#[derive(Default)]
pub(super) struct Built {
    cutover: OnceLock<()>,
    perl: OnceLock<()>,
    debian: OnceLock<Result<(), String>>,
}

impl Built {
    #[track_caller]
    pub(super) fn cutover(&self, engine: &Engine) -> Result<&'static str, String> {
        self.debian(engine)?;
        self.cutover.get_or_init(|| {
            let folder = tempfile::tempdir().expect("make a folder");
            fs::copy(static_program(), folder.path().join("cutover")).expect("copy the program");
            fs::write(folder.path().join("cargo"), CARGO.replace("$ASKED", &BUILD.join(" "))).expect("write a script");
            make_executable(&folder.path().join("cargo"));
            fs::write(folder.path().join("Dockerfile"), STAND_IN.1).expect("write a Dockerfile");
            engine.must(&["build", "--quiet", "--tag", STAND_IN.0, &folder.path().display().to_string()]);
            let file = format!("{REPOSITORY}/deploy/Dockerfile");
            engine.must(&["build", "--quiet", "--tag", CUTOVER, "--file", &file, REPOSITORY]);
        });
        Ok(CUTOVER)
    }

    #[track_caller]
    pub(super) fn perl(&self, engine: &Engine) -> Result<&'static str, String> {
        self.cutover(engine)?;
        self.perl.get_or_init(|| {
            let folder = tempfile::tempdir().expect("make a folder");
            let server = folder.path().join("server.pl");
            fs::copy(format!("{REPOSITORY}/tests/it/support/docker/server.pl"), &server).expect("copy the server");
            make_executable(&server);
            fs::write(folder.path().join("Dockerfile"), OF_A_USER).expect("write a Dockerfile");
            engine.must(&["build", "--quiet", "--tag", PERL, &folder.path().display().to_string()]);
        });
        Ok(PERL)
    }

    pub(super) fn debian(&self, engine: &Engine) -> Result<&'static str, String> {
        self.debian.get_or_init(|| import(engine)).clone().map(|()| DEBIAN)
    }
}

/// Builds an image of this Dockerfile. The build context has the program as `server`.
#[track_caller]
pub(super) fn of(engine: &Engine, name: &str, dockerfile: &str) {
    let folder = tempfile::tempdir().expect("make a folder");
    fs::copy(static_program(), folder.path().join("server")).expect("copy the program");
    fs::write(folder.path().join("Dockerfile"), dockerfile).expect("write a Dockerfile");
    engine.must(&["build", "--quiet", "--tag", name, &folder.path().display().to_string()]);
}

/// Imports the root of the machines with systemd, which has all that a script needs.
fn import(engine: &Engine) -> Result<(), String> {
    let root = root::root(Suite::Bookworm)?;
    let mut pack = Command::new("tar");
    pack.arg("--directory").arg(root).args(["--create", "--one-file-system", "."]);
    let mut pack = pack.stdout(Stdio::piped()).spawn().map_err(|error| format!("cannot run tar: {error}"))?;
    let packed = pack.stdout.take().expect("it is piped");
    let done = engine.command(&["import", "-", DEBIAN]).stdin(packed).output();
    let done = done.map_err(|error| format!("cannot run timeout(1): {error}"))?;
    let packed = pack.wait().map_err(|error| error.to_string())?;
    let good = done.status.success() && packed.success();
    if good { Ok(()) } else { Err(format!("cannot import a Debian: tar {packed}, {}", said(&done))) }
}

/// The program of this source, statically linked, so that it runs in an empty image. Cargo builds the program once, and
/// keeps it in the target folder. A full build takes some minutes on a small machine.
pub(super) fn static_program() -> PathBuf {
    let folder = concat!(env!("CARGO_TARGET_TMPDIR"), "/static");
    // A profile for a small program and a fast build: little optimisation, and no debug information.
    let profile = [
        ("OPT_LEVEL", "s"),
        ("DEBUG", "false"),
        ("STRIP", "true"),
        ("DEBUG_ASSERTIONS", "false"),
        ("CODEGEN_UNITS", "16"),
    ];
    let words = BUILD.into_iter().filter(|word| *word != "--release").map(|word| match word {
        "rustc" => vec!["rustc", "--quiet", "--target-dir", folder],
        word => vec![word],
    });
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(REPOSITORY).args(words.flatten());
    command.envs(profile.map(|(key, value)| (format!("CARGO_PROFILE_DEV_{key}"), value)));
    let done = command.stdin(Stdio::null()).output().expect("run cargo");
    assert!(done.status.success(), "{command:?}: {}", said(&done));
    Path::new(folder).join("debug/cutover")
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("make it executable");
}
