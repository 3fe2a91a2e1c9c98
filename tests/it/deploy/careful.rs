//! Cases in which deploy.sh must change nothing; and the lints of the script itself.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Output};

use super::site::{Deploy, Ended, Place, REAL, SCRIPT, Site, names_in, path_with, tree, write_script};
use super::{Way, by_each_way};

by_each_way!(a_dry_run);

fn a_dry_run(way: Way) {
    let site = Site::start(way, &[]);
    site.deploys("v2");
    site.deploys("v3");
    let (before, live) = (tree(&site.place.path("")), site.live());
    let new = site.place.good("new v4");
    let before_new = tree(&new);
    let ended = site.deploy(&["--dry-run", "--release", "v4", "--keep", "2"], &new);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{ended:?}");
    let root = site.place.root().canonicalize().expect("a path").display().to_string();
    for told in [
        format!("would copy {} to {root}/releases/v4", new.display()),
        format!("flip {root}/current from releases/v3 to it"),
        format!("would reload process {live}"),
        format!("would remove {root}/releases/v2"),
        format!("would remove {root}/releases/v1"),
    ] {
        assert!(ended.err.contains(&told), "{told}: {ended:?}");
    }
    assert_eq!(site.live(), live);
    assert_eq!(tree(&new), before_new);
    fs::remove_dir_all(&new).expect("removed");
    let mut after = tree(&site.place.path(""));
    // The test itself has changed the time of this folder.
    after.insert(site.place.path(""), before[&site.place.path("")].clone());
    assert_eq!(after, before);
    assert_eq!(site.server.count_log("reloading"), 2, "it was reloaded");
}

#[test]
fn a_dry_run_where_nothing_is_there_yet() {
    let place = Place::new();
    let new = place.good("new");
    let before = tree(&place.root());
    let ended = Deploy::begin(place.command(&["--name", "web", "--dry-run"], &new)).end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("current from nothing to it") && !ended.err.contains("reload"), "{ended:?}");
    assert_eq!(tree(&place.root()), before);
}

/// A root with a release, whose server does not run.
pub(super) fn abandoned() -> Place {
    let place = Place::new();
    let ended = Deploy::begin(place.command(&["--release", "v1", "--name", "web"], &place.good("new v1"))).end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    // Without the lock file, a deploy that creates one is detected.
    fs::remove_file(place.root().join(".lock")).expect("removed");
    place
}

#[track_caller]
pub(super) fn assert_nothing_done(place: &Place, command: Command) -> Ended {
    let before = tree(&place.root());
    let ended = Deploy::begin(command).end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(69), ""), "{ended:?}");
    assert!(ended.err.contains("nothing was changed"), "{ended:?}");
    assert_eq!(tree(&place.root()), before);
    ended
}

/// A process that deploy.sh must not signal.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn without_a_process_nothing_is_changed() {
    let mut stranger = Stranger(Command::new("sleep").arg("1000").spawn().expect("spawn sleep"));
    let mut dead = Command::new("true").spawn().expect("spawn true");
    dead.wait().expect("wait for true");
    let place = abandoned();
    let new = place.good("new v2");
    let command = || place.command(&["--pid-file", "server.pid"], &new);
    assert_nothing_done(&place, command());
    for pid in
        ["".into(), "0\n".into(), "-1\n".into(), "x\n".into(), dead.id().to_string(), stranger.0.id().to_string()]
    {
        fs::write(place.pid_file(), &pid).expect("write the PID file");
        assert_nothing_done(&place, command());
        assert_nothing_done(&place, place.command(&["--pid-file", "server.pid", "--dry-run"], &new));
    }
    assert!(stranger.0.try_wait().expect("wait for sleep").is_none(), "SIGHUP went to a stranger");
}

#[test]
fn without_an_instance_nothing_is_changed() {
    let place = abandoned();
    let new = place.good("new v2");
    // With the last options deploy.sh finds no program, neither in PATH nor in the current release.
    for options in [&["--cutover", REAL][..], &["--cutover", "/no/such/cutover"], &[]] {
        let options = [&["--name", "no-such-instance"], options].concat();
        let mut command = place.command(&options, &new);
        command.env("RUNTIME_DIRECTORY", place.path("run")).env("PATH", "/usr/bin:/bin");
        assert_nothing_done(&place, command);
    }
}

#[test]
fn without_a_unit_nothing_is_changed() {
    let place = abandoned();
    let new = place.good("new v2");
    let bin = place.path("bin");
    fs::create_dir(&bin).expect("a folder");
    for (name, systemctl) in [("dead", "#!/bin/sh\necho inactive\n"), ("broken", "#!/bin/sh\nexit 1\n")] {
        write_script(&bin.join("systemctl"), systemctl);
        let mut command = place.command(&["--unit", name], &new);
        command.env("PATH", path_with(&bin));
        let ended = assert_nothing_done(&place, command);
        assert!(ended.err.contains(&format!("the unit {name} is ")), "{ended:?}");
    }
}

#[test]
fn releases_that_cannot_be_written() {
    let site = Site::start(Way::PidFile, &[]);
    let new = site.place.good("new v2");
    fs::write(new.join("unreadable"), "").expect("a file");
    fs::set_permissions(new.join("unreadable"), Permissions::from_mode(0o000)).expect("set");
    let releases = site.place.root().join("releases");
    for writable in [false, true] {
        let mode = if writable { 0o755 } else { 0o555 };
        fs::set_permissions(&releases, Permissions::from_mode(mode)).expect("set");
        let (before, live) = (names_in(&releases), site.live());
        let ended = Deploy::begin(without_override(&site.command(&["--release", "v2"], &new))).end();
        assert_eq!((ended.code, ended.out.as_str()), (Some(75), ""), "{ended:?}");
        assert!(ended.err.contains("nothing was changed") && ended.err.contains("Permission denied"), "{ended:?}");
        assert_eq!((names_in(&releases), site.place.current()), (before, "releases/v1".into()));
        assert_eq!((site.live(), site.server.log_contains("reloading")), (live, false));
        site.place.assert_tidy();
    }
    fs::set_permissions(new.join("unreadable"), Permissions::from_mode(0o644)).expect("set");
    site.assert_live("v2", &Deploy::begin(without_override(&site.command(&["--release", "v2"], &new))).end());
}

/// The same command without the capabilities by which root ignores file modes.
fn without_override(command: &Command) -> Command {
    if !rustix::process::geteuid().is_root() {
        let mut same = Command::new(command.get_program());
        same.args(command.get_args()).current_dir(command.get_current_dir().expect("a folder"));
        return same;
    }
    let mut without = Command::new("setpriv");
    without.args(["--bounding-set=-dac_override,-dac_read_search", "--"]);
    without.arg(command.get_program()).args(command.get_args());
    without.current_dir(command.get_current_dir().expect("a folder"));
    without
}

/// Leftovers of a killed deploy do no harm.
#[test]
fn leftovers() {
    let site = Site::start(Way::PidFile, &[]);
    let root = site.place.root();
    fs::create_dir_all(root.join("releases/.new/inside")).expect("a folder");
    symlink("nowhere", root.join(".current.new")).expect("a symlink");
    site.deploys("v2");
    assert_eq!(site.place.releases(), ["v1", "v2"]);
    assert_eq!(names_in(&root.join("releases/v2")), ["server", "zz last"]);
}

#[test]
fn wrong_usage() {
    let place = abandoned();
    let other = Place::new();
    fs::create_dir(other.root().join("current")).expect("a folder, and no symlink");
    let (root, other) = (place.root(), other.root());
    let (root, other) = (root.to_str().expect("text"), other.to_str().expect("text"));
    let wrong: [&[&str]; 25] = [
        &[],
        &["/bin/true"],
        &["--root"],
        &["--root", root],
        &["--root", root, "/bin/true"],
        &["--root", root, "--pid-file"],
        &["--root", root, "--pid-file", "/nowhere"],
        &["--pid-file", "/nowhere", "/bin/true"],
        &["--root", "", "--pid-file", "/nowhere", "/bin/true"],
        &["--root", "/nowhere", "--pid-file", "/nowhere", "/bin/true"],
        &["--root", "/etc/passwd", "--pid-file", "/nowhere", "/bin/true"],
        &["--root", other, "--pid-file", "/nowhere", "/bin/true"],
        &["--root", root, "--pid-file", "", "/bin/true"],
        &["--root", root, "--pid-file", "/nowhere", "--name", "web", "/bin/true"],
        &["--root", root, "--unit", "web", "--unit", "web", "/bin/true"],
        &["--root", root, "--name", "web", "/nowhere"],
        &["--root", root, "--name", "web", "/etc/passwd"],
        &["--root", root, "--name", "web", root],
        &["--root", root, "--name", "web", "/"],
        &["--root", root, "--name", "web", "/bin/true", "/bin/true"],
        &["--root", root, "--name", "web", "--timeout", "08", "/bin/true"],
        &["--root", root, "--name", "web", "--timeout", "99999999999999999999", "/bin/true"],
        &["--root", root, "--name", "web", "--keep", "1", "/bin/true"],
        &["--root", root, "--name", "web", "--release", "../v2", "/bin/true"],
        &["--root", root, "--name", "web", "--frobnicate", "/bin/true"],
    ];
    let before = (tree(Path::new(root)), tree(Path::new(other)));
    for arguments in wrong {
        let mut command = Command::new(SCRIPT);
        command.args(arguments);
        let ended = Deploy::begin(command).end();
        assert_eq!(ended.code, Some(64), "{arguments:?}: {ended:?}");
        assert!(ended.err.contains("usage: deploy.sh") && ended.out.is_empty(), "{arguments:?}: {ended:?}");
    }
    for name in ["v1.failed", ".hidden", "-v2", "v 2", "v\n2"] {
        let ended = Deploy::begin(place.command(&["--name", "web", "--release", name], Path::new("/bin/true"))).end();
        assert_eq!(ended.code, Some(64), "{name:?}: {ended:?}");
    }
    assert_eq!((tree(Path::new(root)), tree(Path::new(other))), before);
    let mut help = Command::new(SCRIPT);
    help.arg("--help");
    let ended = Deploy::begin(help).end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.starts_with("usage: deploy.sh") && ended.err.is_empty(), "{ended:?}");
}

#[test]
fn the_script_is_clean() {
    for check in [["sh", "-n"], ["shellcheck", "--shell=sh"]] {
        match Command::new(check[0]).args([check[1], SCRIPT]).output() {
            Ok(Output { status, stdout, stderr }) => {
                let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
                assert!(status.success(), "{check:?}: {said}");
            }
            Err(error) => crate::support::skip(&format!("{} cannot be run: {error}", check[0])),
        }
    }
}
