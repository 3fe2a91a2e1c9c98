//! A new binary in a mounted folder of the machine: no new container is needed, as a new image would need one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{SOON, folder, live, mount, reload_fails, reload_to};
use crate::support::docker::{Container, Engine};
use crate::support::load::{Mode, Plan};

/// How a release replaces the program.
#[derive(Clone, Copy)]
enum Way {
    Rename,
    Symlink,
}

impl Way {
    fn program(self) -> &'static str {
        match self {
            Way::Rename => "/srv/server",
            Way::Symlink => "/srv/current/server",
        }
    }

    /// Replaces the program in one step, as a deploy does.
    fn put(self, root: &Path, number: u32, release: &Release) {
        match self {
            Way::Rename => {
                let new = root.join("server.new");
                release.write(&new);
                if new.exists() {
                    fs::rename(new, root.join("server")).expect("put it there");
                } else {
                    fs::remove_file(root.join("server")).expect("take it away");
                }
            }
            Way::Symlink => {
                let folder = root.join(format!("release-{number}"));
                fs::create_dir(&folder).expect("make a folder");
                release.write(&folder.join("server"));
                let new = root.join("current.new");
                std::os::unix::fs::symlink(format!("release-{number}"), &new).expect("make a symlink");
                fs::rename(new, root.join("current")).expect("flip it");
            }
        }
    }
}

enum Release<'a> {
    /// A copy of this program.
    Of(&'a Path),
    Text(&'static str),
    NotExecutable,
    Missing,
}

impl Release<'_> {
    fn write(&self, path: &Path) {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = match self {
            Release::Of(program) => {
                fs::copy(program, path).expect("copy it");
                0o755
            }
            Release::Text(text) => {
                fs::write(path, text).expect("write it");
                0o755
            }
            Release::NotExecutable => {
                fs::write(path, "").expect("write it");
                0o644
            }
            Release::Missing => return,
        };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set its mode");
    }
}

fn start(engine: &'static Engine, image: &str, options: &[&str], program: &str) -> Container {
    let options = [&["--publish", "8080"], options].concat();
    let listen = ["--listen", "0.0.0.0:8080"];
    let words = [&["run"], &listen[..], &["--", program, "serve"], &listen].concat();
    live(engine.run(&options, image, &words))
}

fn broken_ones_change_nothing(way: Way) {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.cutover() else { return };
    let (good, root) = (engine.program(), folder());
    way.put(root.path(), 1, &Release::Of(&good));
    let container = start(engine, image, &["--mount", &mount(&root)], way.program());
    let plan = Plan::new([container.published(8080)], 4, Mode::KeepAlive);
    let load = engine.load(Plan { pause: Duration::from_millis(5), ..plan });
    load.wait_answered(100, SOON);

    let broken = [
        (Release::Text("no program\n"), "Exec format error"),
        // This program needs libraries, and an empty image has none.
        (Release::Of(Path::new("/bin/true")), "No such file"),
        (Release::NotExecutable, "is not executable"),
        (Release::Missing, "cannot be found"),
    ];
    for (number, (release, why)) in (2..).zip(&broken) {
        way.put(root.path(), number, release);
        let told = reload_fails(&container);
        assert!(told.contains(why) && told.contains("generation 1 serves on"), "{why}: {told}");
    }
    assert_eq!(load.generations().into_iter().collect::<Vec<_>>(), [1]);
    assert_eq!(container.processes().len(), 2, "{:?}", container.processes());

    way.put(root.path(), 100, &Release::Of(&good));
    // Each attempt has its own generation number.
    reload_to(&container, 6);
    load.wait_generation(6, SOON);
    let report = load.stop();
    report.assert_nothing_lost();
    assert_eq!(report.generations.into_iter().collect::<Vec<_>>(), [1, 6]);
}

#[test]
fn a_file_that_is_replaced_by_rename() {
    broken_ones_change_nothing(Way::Rename);
}

#[test]
fn a_symlink_that_is_flipped() {
    broken_ones_change_nothing(Way::Symlink);
}

/// The container keeps the mounted file, whatever gets its name on the machine: a file to be replaced needs its folder
/// mounted.
#[test]
fn a_file_that_is_mounted_itself_is_never_replaced() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.cutover() else { return };
    let root = folder();
    Way::Rename.put(root.path(), 1, &Release::Of(&engine.program()));
    let file = format!("type=bind,source={}/server,target=/server", root.path().display());
    let container = start(engine, image, &["--mount", &file], "/server");
    Way::Rename.put(root.path(), 2, &Release::Text("no program\n"));
    reload_to(&container, 2);
}
