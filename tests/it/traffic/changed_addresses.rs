//! A reload that changes addresses, by a configuration file: what stays loses nothing, what is new is there, and what is
//! gone is refused and never cut.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::control::Panel;
use crate::support::load::{Load, Mode, Plan, Report, Transport};
use crate::support::process::{Instance, Start};
use crate::support::wan::Wan;
use crate::support::{http_get, join_group, skip};

const SOON: Duration = Duration::from_secs(20);
const CUTOVER: &str = env!("CARGO_BIN_EXE_cutover");
const STAYS: u8 = 1;
const GOES: u8 = 2;
const COMES: u8 = 3;

/// A configuration file, and addresses that no other test uses.
struct Config {
    folder: TempDir,
    test: u8,
}

impl Config {
    fn new(test: u8) -> Config {
        Config { folder: tempfile::tempdir().expect("a folder"), test }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("cutover.toml")
    }

    fn address(&self, number: u8) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(127, 9, self.test, number), 18_080))
    }

    fn write(&self, text: &str) {
        fs::write(self.file(), text).expect("written");
    }

    /// Writes the file with these addresses, and further lines.
    fn listen(&self, numbers: &[u8], more: &str) {
        let addresses: Vec<_> = numbers.iter().map(|number| self.address(*number).to_string()).collect();
        self.write(&format!("listen = {addresses:?}\nidle-grace = '1s'\n{more}\n"));
    }

    fn start(&self) -> Instance {
        Start::program(CUTOVER).args(["serve", "--config"]).arg(self.file()).ready()
    }

    fn load(&self, number: u8, mode: Mode) -> Load {
        let load = Plan::new([self.address(number)], 16, mode).start();
        load.wait_answered(100, SOON);
        load
    }
}

/// Asserts that no request was lost but those that found no listener.
#[track_caller]
fn assert_only_refused(report: &Report) {
    assert_eq!(report.failures.total(), report.failures.refused, "{report}");
    assert!(report.failures.refused > 0, "{report}");
}

fn is_refused(address: SocketAddr) -> bool {
    http_get(address, "/").is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[test]
fn what_stays_loses_nothing_and_what_goes_is_refused_and_not_cut() {
    let config = Config::new(1);
    config.listen(&[STAYS, GOES], "");
    let server = config.start();
    let stays = [Mode::Close, Mode::KeepAlive].map(|mode| config.load(STAYS, mode));
    // Each turn, the address that goes and the one that comes change places.
    let (mut goes, mut comes) = (GOES, COMES);
    for turn in 0..6 {
        let leaving = [Mode::Close, Mode::KeepAlive, Mode::Pipelined].map(|mode| config.load(goes, mode));
        assert!(is_refused(config.address(comes)), "it is not there yet");
        config.listen(&[STAYS, comes], "");
        server.reload();
        let page = http_get(config.address(comes), "/").expect("what is new is there");
        assert!(page.contains(&format!("generation {}\n", turn + 2)), "{page}");
        for load in leaving {
            load.wait_failed(1, SOON);
            assert_only_refused(&load.stop());
        }
        assert!(is_refused(config.address(goes)));
        (goes, comes) = (comes, goes);
    }
    server.wait_log("does not listen on", SOON);
    for load in stays {
        load.wait_generation(7, SOON);
        load.stop().assert_nothing_lost();
    }
}

/// With 100 ms from a SYN to its last ACK, a handshake is always in flight. Those that begin before the address closes are
/// finished, and those that begin later are refused. Needs root and /dev/net/tun.
#[test]
fn over_a_slow_line_no_handshake_is_cut() {
    let wan = match Wan::new(Duration::from_millis(50)) {
        Ok(wan) => wan,
        Err(why) => return skip(&why),
    };
    let config = Config::new(12);
    let (stays, mut goes) = (wan.server_addr(), wan.server_addr());
    goes.set_port(stays.port() + 1);
    config.write(&format!("listen = ['{stays}', '{goes}']"));
    let server = wan.server_side(|| config.start());
    let plan =
        |address, nth: u32| Plan { pause: Duration::from_millis(2) * nth, ..Plan::new([address], 3, Mode::Close) };
    let start = |address| wan.client_side(|| (0..20).map(|nth| plan(address, nth).start()).collect::<Vec<_>>());
    let (staying, leaving) = (start(stays), start(goes));
    // In these first rounds the loads drift apart.
    leaving[0].wait_answered(18, SOON);
    config.write(&format!("listen = ['{stays}']"));
    server.reload();
    for load in leaving {
        load.wait_failed(1, SOON);
        assert_only_refused(&load.stop());
    }
    for load in staying {
        load.wait_generation(2, SOON);
        load.stop().assert_nothing_lost();
    }
}

/// Negative control: without the wait for what is on its way, connections to the address that goes are cut.
#[test]
fn a_close_at_once_cuts_connections_and_the_load_sees_it() {
    let config = Config::new(2);
    config.listen(&[STAYS, GOES], "linger = '0s'");
    let server = config.start();
    let mut cut = 0;
    for _ in 0..30 {
        let leaving = Plan { threads: 2, ..Plan::new([config.address(GOES)], 64, Mode::Close) }.start();
        leaving.wait_answered(200, SOON);
        config.listen(&[STAYS], "linger = '0s'");
        server.reload();
        leaving.wait_failed(1, SOON);
        let report = leaving.stop();
        cut += report.failures.total() - report.failures.refused;
        if cut > 0 {
            return;
        }
        config.listen(&[STAYS, GOES], "linger = '0s'");
        server.reload();
    }
    panic!("30 closes at once have cut nothing");
}

#[test]
fn all_addresses_may_change_and_the_probe_asks_at_the_new_ones() {
    let config = Config::new(3);
    config.listen(&[GOES], "probe = '/'");
    let server = config.start();
    let load = config.load(GOES, Mode::KeepAlive);
    config.listen(&[COMES], "probe = '/'");
    let blue = server.main_pid();
    server.reload();
    assert!(http_get(config.address(COMES), "/").expect("an answer").contains("generation 2"));
    load.wait_failed(1, SOON);
    assert_only_refused(&load.stop());
    server.wait_gone(blue, SOON);
    assert!(server.log_contains("does not listen on 127.9.3.2:18080, which closes when this generation retires"));
    // The next reload knows its own addresses.
    server.reload();
    assert!(http_get(config.address(COMES), "/").expect("an answer").contains("generation 3"));
}

#[test]
fn a_canary_has_its_share_where_both_listen_and_a_rollback_takes_the_new_address_away() {
    let config = Config::new(4);
    config.listen(&[STAYS, GOES], "canary = '50%:1h'");
    let server = config.start();
    let panel = Panel::of(&server);
    let stays = config.load(STAYS, Mode::Close);
    let goes = config.load(GOES, Mode::Close);
    config.listen(&[STAYS, COMES], "canary = '50%:1h'");
    let mut reload = panel.reload();
    reload.reaches_canary(50.0);
    stays.wait_generation(2, SOON);
    let comes = config.load(COMES, Mode::Close);
    goes.wait_answered(200, SOON);
    panel.rollback();
    reload.rolled_back_because(&["was rolled back on request"]);
    comes.wait_failed(1, SOON);
    let comes = comes.stop();
    assert_only_refused(&comes);
    assert_eq!(Vec::from_iter(&comes.generations), [&2]);
    let now = config.load(STAYS, Mode::Close).stop();
    assert_eq!(Vec::from_iter(&now.generations), [&1]);
    now.assert_nothing_lost();
    let goes = goes.stop();
    goes.assert_nothing_lost();
    assert_eq!(Vec::from_iter(&goes.generations), [&1], "the next generation was never there");
    stays.stop().assert_nothing_lost();
}

#[test]
fn a_unix_socket_comes_and_goes_as_well() {
    let config = Config::new(5);
    let path = config.folder.path().join("app.sock");
    let listen = |unix: bool, more: &str| {
        let unix = if unix { format!(", 'unix:{}'", path.display()) } else { String::new() };
        config.write(&format!("listen = ['{}'{unix}]\nidle-grace = '1s'\n{more}\n", config.address(STAYS)));
    };
    listen(false, "");
    let server = config.start();
    let stays = config.load(STAYS, Mode::Close);
    let load = || {
        let transport = Transport::Unix(UnixAddress::from_pathname(&path).expect("a short path"));
        let load = Plan { transport, ..Plan::new([config.address(STAYS)], 16, Mode::Close) }.start();
        load.wait_answered(100, SOON);
        load
    };
    for _ in 0..3 {
        assert!(!path.exists());
        listen(true, "");
        server.reload();
        let unix = load();
        listen(false, "");
        server.reload();
        unix.wait_failed(1, SOON);
        let report = unix.stop();
        // A path that is gone is no such file, which is no answer of a server.
        assert_eq!(report.failures.total(), report.failures.refused + report.failures.other, "{report}");
    }
    // A next generation that is rolled back takes its new socket away.
    listen(false, "canary = '50%:1h'");
    server.reload();
    listen(true, "");
    let panel = Panel::of(&server);
    let mut reload = panel.reload();
    reload.reaches_canary(50.0);
    UnixStream::connect(&path).expect("it is there");
    let green = panel.pid_of(9);
    panel.rollback();
    reload.rolled_back();
    server.wait_gone(green, SOON);
    assert!(!path.exists(), "a file is left");
    stays.stop().assert_nothing_lost();
}

/// What is wrong with a file is the outcome of the reload, and the old generation serves on.
#[test]
fn a_file_that_cannot_be_used_changes_nothing() {
    let config = Config::new(6);
    config.listen(&[STAYS], "");
    let server = config.start();
    let load = config.load(STAYS, Mode::KeepAlive);
    let panel = Panel::of(&server);
    let file = config.file().display().to_string();
    for (text, why) in [
        ("listen = \n", format!("could not start: {file}, line 1: ")),
        ("listn = 'x'", format!("could not start: {file}: listn is no option")),
        ("linger = 'long'", format!("could not start: {file}: invalid value 'long' for '--linger <TIME>'")),
        ("listen = '127.0.0.1'", format!("could not start: {file}: invalid value '127.0.0.1' for '--listen <ADDR>'")),
        (
            "tls-cert = '/none'",
            format!("could not start: {file}: the following required arguments were not provided: --tls-key <FILE>"),
        ),
        ("listen = '192.0.2.1:80'", "could not start: 192.0.2.1 is no address of this machine".into()),
    ] {
        config.write(text);
        panel.reload().rolled_back_because(&[&why]);
    }
    fs::remove_file(config.file()).expect("there");
    panel.reload().rolled_back_because(&[&format!("could not start: cannot read {file}: No such file")]);
    config.listen(&[STAYS], "");
    panel.reload().done();
    load.stop().assert_nothing_lost();
}

#[test]
fn a_reload_changes_options_and_the_directory() {
    let config = Config::new(7);
    let pages = ["one", "two"].map(|name| {
        let folder = config.folder.path().join(name);
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("page"), name).expect("written");
        folder
    });
    let directory = |folder: &PathBuf| config.listen(&[STAYS], &format!("directory = '{}'", folder.display()));
    directory(&pages[0]);
    let server = config.start();
    assert!(http_get(config.address(STAYS), "/page").expect("an answer").ends_with("one"));
    directory(&pages[1]);
    server.reload();
    assert!(http_get(config.address(STAYS), "/page").expect("an answer").ends_with("two"));
}

/// The kernel would give connections to the more specific address at once, whatever the steering says. The next
/// generation is refused before it listens.
#[test]
fn an_address_that_overlaps_is_refused_before_it_takes_connections() {
    for (test, before, after) in [(9, "0.0.0.0", "127.9.9.1"), (10, "127.9.10.1", "0.0.0.0"), (11, "[::]", "0.0.0.0")] {
        let config = Config::new(test);
        let listen = |host: &str| config.write(&format!("listen = '{host}:{}'", 18_100 + u16::from(test)));
        listen(before);
        let server = config.start();
        listen(after);
        server.hup();
        let line = server.wait_log("reload failed", SOON);
        assert!(
            line.contains(&format!("overlaps with {before}:")) && line.contains("needs a restart or another port"),
            "{line}"
        );
        listen(before);
        server.reload();
    }
}

#[test]
fn an_address_of_somebody_else_is_refused_although_the_kernel_would_share_it() {
    let config = Config::new(8);
    config.listen(&[STAYS], "");
    let server = config.start();
    let other = join_group(config.address(COMES));
    config.listen(&[STAYS, COMES], "");
    let pid = format!("pid {}", std::process::id());
    Panel::of(&server).reload().rolled_back_because(&["127.9.8.3:18080 is taken", &pid]);
    drop(other);
    server.reload();
}
