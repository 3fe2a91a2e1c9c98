//! Whether the server may write its control socket and its PID file.

use std::path::Path;

use crate::doctor::finding::Finding;
use crate::doctor::unit::Unit;

/// The folder in `/run` that every client looks in, and one level deeper.
const OF_THE_SYSTEM: &str = "cutover";

pub(super) fn findings(unit: &Unit) -> Vec<Finding> {
    let Some(serving) = &unit.serving else { return Vec::new() };
    let control = if serving.has_control { control(unit) } else { None };
    let pid_file = serving.pid_file.as_ref().and_then(|path| pid_file(unit, path));
    [control, pid_file].into_iter().flatten().collect()
}

fn control(unit: &Unit) -> Option<Finding> {
    const SUBJECT: &str = "RuntimeDirectory";
    const FIX: &str = "RuntimeDirectory=cutover, or cutover/NAME where there are several instances";
    let given = unit.shown.words("Environment").any(|variable| {
        ["RUNTIME_DIRECTORY=", "XDG_RUNTIME_DIR="].iter().any(|name| variable.trim_matches('"').starts_with(name))
    });
    let own_folder = unit.is_root() && may_write(unit, Path::new("/run/cutover"));
    match unit.shown.words(SUBJECT).next() {
        Some(folder) if folder.split('/').next() == Some(OF_THE_SYSTEM) => {
            Some(Finding::ok(SUBJECT, format!("/run/{folder}, where the control socket is looked for")))
        }
        Some(folder) => Some(Finding::note(
            SUBJECT,
            format!("/run/{folder}: from a shell, cutover reload and status do not look there"),
            format!("{FIX}; or --control /run/{folder}/NAME.sock in each call"),
        )),
        None if given || own_folder => None,
        None if unit.shown.commands("ExecReload").iter().any(|c| c.words.iter().any(|word| word == "reload")) => {
            let what = "none: there is no place for a control socket, and cutover reload does not find the server";
            Some(Finding::problem(SUBJECT, what, FIX))
        }
        None => {
            let what = "none: there is no place for a control socket; only signals reach the server";
            Some(Finding::note(SUBJECT, what, FIX))
        }
    }
}

fn pid_file(unit: &Unit, path: &str) -> Option<Finding> {
    const SUBJECT: &str = "--pid-file";
    let folder = Path::new(path).parent()?;
    // A relative path depends on WorkingDirectory=.
    if !folder.is_absolute() {
        return None;
    }
    let roots_own = ["/run", "/var/run"].iter().any(|own| Path::new(own) == folder);
    let why = match (may_write(unit, folder), unit.is_root()) {
        (false, _) => {
            format!("ProtectSystem={} makes its folder read-only", unit.shown.one("ProtectSystem"))
        }
        (true, false) if roots_own => format!("only root may write in {}", folder.display()),
        (true, _) => return None,
    };
    let fix = "RuntimeDirectory=cutover and --pid-file %t/cutover/cutover.pid, or ReadWritePaths=";
    Some(Finding::problem(SUBJECT, format!("{path}: {why}"), fix))
}

/// Whether this folder is writable under ProtectSystem= and the other settings of the unit (systemd.exec(5)).
fn may_write(unit: &Unit, folder: &Path) -> bool {
    let shown = &unit.shown;
    let list = |key: &str| shown.words(key).map(|path| path.trim_start_matches(['-', '+'])).collect::<Vec<_>>();
    let own = [
        ("RuntimeDirectory", "/run"),
        ("StateDirectory", "/var/lib"),
        ("CacheDirectory", "/var/cache"),
        ("LogsDirectory", "/var/log"),
    ];
    let mut writable: Vec<_> = list("ReadWritePaths").iter().map(|path| Path::new(path).to_owned()).collect();
    for (key, top) in own {
        // After a colon, a second name makes a symlink to the same folder.
        let names = list(key).into_iter().map(|name| name.split(':').next().unwrap_or(name));
        writable.extend(names.map(|name| Path::new(top).join(name)));
    }
    let mut protected: Vec<&str> = match shown.one("ProtectSystem") {
        "strict" => vec!["/"],
        "full" => vec!["/usr", "/boot", "/efi", "/etc"],
        "yes" => vec!["/usr", "/boot", "/efi"],
        _ => Vec::new(),
    };
    if shown.is("PrivateTmp", "yes") || shown.is("PrivateTmp", "connected") || shown.is("PrivateTmp", "disconnected") {
        writable.extend(["/tmp", "/var/tmp"].map(|path| Path::new(path).to_owned()));
    }
    writable.extend(["/dev", "/proc", "/sys"].map(|path| Path::new(path).to_owned()));
    protected.retain(|top| folder.starts_with(top));
    protected.is_empty() || writable.iter().any(|top| folder.starts_with(top))
}
