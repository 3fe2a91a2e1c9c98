//! The units in `systemd/`, under a real systemd, 252 and 257, each as process 1 of a machine of its own. Needs root.

mod broken;
mod deploy;
mod journal;
mod killed;
mod reload;
mod run;
mod stop;
mod units;
mod watchdog;

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use crate::support::http_get;
use crate::support::load::{Load, Mode, Plan};
use crate::support::systemd::{Machine, Mark, Suite, said};

/// Makes a test of each function, on each suite.
macro_rules! on_each_suite {
    ($($name:ident;)*) => {
        mod bookworm {
            $(#[test] fn $name() { super::$name(crate::support::systemd::Suite::Bookworm); })*
        }
        mod trixie {
            $(#[test] fn $name() { super::$name(crate::support::systemd::Suite::Trixie); })*
        }
    };
}
use on_each_suite;

const REAL: &str = env!("CARGO_BIN_EXE_cutover");
const SOON: Duration = Duration::from_secs(30);
/// The path of the program in the units.
const PROGRAM: &str = "/usr/local/bin/cutover";
/// A server whose file is another one than that of the verbs.
const SERVER: &str = "/usr/local/lib/server";
const UNIT: &str = "cutover.service";
/// The port of the units, on the loopback address.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 80);

const BY_SIGNAL: &str = "ExecReload=\nExecReload=/bin/kill -HUP $MAINPID\n";
const EXITS: &str = "#!/bin/sh\nexit 1\n";
const HANGS: &str = "#!/bin/sh\nexec sleep 1000\n";

/// The text of one of the unit files of this repository.
fn file(name: &str) -> String {
    let path = format!("{}/systemd/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

/// Drop-in lines for a server whose file is another one than that of the verbs, with these further options.
fn own_server(options: &str) -> String {
    server_at(SERVER, options)
}

fn server_at(path: &str, options: &str) -> String {
    let start = format!("{path} serve --name %N --listen 0.0.0.0:80 --pid-file %t/cutover/%n/cutover.pid {options}");
    format!("ExecStart=\nExecStart={start}\n")
}

/// The template, and the name of an instance of it.
const TEMPLATE: &str = "cutover@.service";
const INSTANCE: &str = "cutover@web.service";

/// A machine on which the service runs.
struct Site {
    machine: Machine,
    unit: &'static str,
}

impl Site {
    /// Starts the service from this file, as cutover.service or as the template, with these lines in a drop-in.
    #[track_caller]
    fn start(suite: Suite, unit_file: &str, lines: &str) -> Option<Site> {
        Site::prepare(suite, unit_file, lines, |_| {})
    }

    /// The same for a service that needs more files than the program.
    #[track_caller]
    fn prepare(suite: Suite, unit_file: &str, lines: &str, more: impl FnOnce(&Machine)) -> Option<Site> {
        let machine = Machine::boot(suite)?;
        machine.copy(REAL, PROGRAM);
        machine.link(PROGRAM, SERVER);
        more(&machine);
        let (name, unit) = if unit_file == TEMPLATE { (TEMPLATE, INSTANCE) } else { (UNIT, UNIT) };
        machine.unit(name, &file(unit_file));
        machine.script("OPTIONS=--listen 0.0.0.0:80\n", "/etc/cutover/web.conf");
        machine.unit(&format!("{unit}.d/test.conf"), &format!("[Service]\n{lines}"));
        machine.must(&["systemctl", "start", unit]);
        Some(Site { machine, unit })
    }

    #[track_caller]
    fn load(&self, mode: Mode) -> Load {
        // The pause leaves systemd its share of a small machine.
        let plan = Plan { pause: Duration::from_millis(2), ..Plan::new([ADDRESS], 8, mode) };
        let load = self.machine.load(plan);
        load.wait_answered(10, SOON);
        load
    }

    fn mark(&self) -> Mark {
        self.machine.journal().mark()
    }

    fn systemctl(&self, verb: &str) -> Output {
        self.machine.run(&["systemctl", verb, self.unit])
    }

    /// Begins a verb of systemctl(1), and does not wait for its end.
    fn begin(&self, verb: &str) -> Child {
        let mut command = self.machine.command(&["systemctl", verb, self.unit]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run timeout(1) and nsenter(1)")
    }

    /// Reloads, and waits until this generation is live.
    #[track_caller]
    fn reload(&self, generation: u64) {
        let mark = self.mark();
        let done = self.systemctl("reload");
        assert!(done.status.success(), "{}", said(&done));
        self.wait_live(mark, generation);
    }

    #[track_caller]
    fn wait_live(&self, mark: Mark, generation: u64) {
        self.wait_log(mark, &format!(" live generation={generation} "));
    }

    #[track_caller]
    fn wait_log(&self, mark: Mark, needle: &str) -> String {
        self.machine.journal().wait_after(mark, needle, SOON)
    }

    #[track_caller]
    fn main_pid(&self) -> u32 {
        self.machine.main_pid(self.unit)
    }

    #[track_caller]
    fn property(&self, name: &str) -> String {
        self.machine.property(self.unit, name)
    }

    /// The generation and the PID that answer a new connection.
    #[track_caller]
    fn who_answers(&self) -> (u64, u32) {
        let page = self.machine.in_network(|| http_get(ADDRESS, "/")).expect("an answer");
        let number = |word: &str| page.split(word).nth(1)?.lines().next()?.trim().parse::<u64>().ok();
        let found = number("generation ").zip(number("pid ").and_then(|pid| u32::try_from(pid).ok()));
        found.unwrap_or_else(|| panic!("no pid and generation in {page}"))
    }

    /// Asserts that the service is active and was never restarted, and that this process serves.
    #[track_caller]
    fn assert_serves(&self, generation: u64, pid: u32) {
        assert_eq!(self.who_answers(), (generation, pid));
        assert_eq!((self.property("ActiveState").as_str(), self.main_pid()), ("active", pid));
        assert_eq!(self.property("NRestarts"), "0");
    }

    /// Asserts that the service has stopped without a failure, and that nothing of it is left.
    #[track_caller]
    fn assert_stopped_well(&self) {
        let state = ["ActiveState", "Result"].map(|name| self.property(name));
        assert_eq!(state, ["inactive", "success"]);
        self.assert_stopped();
    }

    #[track_caller]
    fn assert_stopped(&self) {
        assert_eq!(self.machine.pids(self.unit), [] as [u32; 0]);
        assert!(!self.machine.exists(&format!("/run/cutover/{}", self.unit)), "its folder is still there");
    }
}

/// A request in flight: half of the request was sent, and the server has accepted the connection.
struct Request(TcpStream);

impl Request {
    #[track_caller]
    fn begin(site: &Site) -> Request {
        let mut stream = site.machine.in_network(|| TcpStream::connect(ADDRESS)).expect("a connection");
        stream.set_read_timeout(Some(SOON)).expect("set");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: it\r\n").expect("written");
        // A later connection is answered, so the server has accepted this one: connections are accepted in their order.
        site.who_answers();
        Request(stream)
    }

    /// Sends the other half, and returns the complete answer.
    fn finish(mut self) -> io::Result<String> {
        self.0.write_all(b"Connection: close\r\n\r\n")?;
        let mut answer = String::new();
        self.0.read_to_string(&mut answer)?;
        match answer.contains(" 200 ") && answer.contains("generation ") {
            true => Ok(answer),
            false => Err(io::Error::other(format!("no whole answer: {answer}"))),
        }
    }
}
