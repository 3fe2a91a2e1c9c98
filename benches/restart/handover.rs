//! The time from SIGHUP to the moment when every new connection goes to green, step by step, in blue's log and as a
//! client sees it. The program is `cutover serve`, built as for a release.

use super::figures::{Figures, print_table, row};
use crate::Extent;
use crate::support::http_get;
use crate::support::process::{Instance, Start};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

const WITHIN: Duration = Duration::from_secs(20);
/// The time for which the client sends requests before the signal and after the cut-over.
const AROUND: Duration = Duration::from_millis(30);
/// The target for the duration of a reload without green's own start, in milliseconds.
const TARGET_MS: f64 = 5.0;

/// The steps of a reload, and the log lines that end them.
const STEPS: [(&str, &str); 6] = [
    ("signal", "from=serving to=preflight"),
    ("preflight, gate", "from=preflight to=starting"),
    ("fork, exec", "INFO spawned "),
    ("green's own start", "from=starting to=verifying"),
    ("verify", "from=verifying to=cutting over"),
    ("cut over", "new connections go to the next generation"),
];
const FORK_EXEC: usize = 2;
const OWN_START: usize = 3;

/// The measurements of one reload.
#[derive(Debug)]
struct Reload {
    steps: [Duration; STEPS.len()],
    seen: Option<Seen>,
}

/// The times at which a client received two answers, counted from the signal.
#[derive(Clone, Copy, Debug)]
struct Seen {
    last_of_blue: Duration,
    first_of_green: Duration,
}

/// Whether a client sends requests during the reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    None,
    Loop,
}

/// The measurements of a start without a reload.
#[derive(Debug)]
struct Alone {
    exec: Duration,
    ready: Duration,
}

pub(crate) fn measure(extent: Extent) {
    let times = extent.choose(30, 8);
    println!(
        "Handover: {times} reloads each, quiet and with a client that connects in a tight loop; ms, median (range)"
    );
    let server = Start::serve().ready();
    let (mut quiet, mut busy, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    // The first reload of an instance is not measured: its page cache and steering program differ from those of later
    // reloads.
    reload(&server, Client::None);
    for _ in 0..times {
        quiet.push(reload(&server, Client::None));
        alone.push(start_alone());
        busy.push(reload(&server, Client::Loop));
    }
    print_steps(&quiet, &busy);
    print_alone(&quiet, &alone);
    print_seen(&busy);
}

fn reload(server: &Instance, client: Client) -> Reload {
    let (address, blue, mark) = (server.addr(), server.main_pid(), server.mark());
    let before = generation(address);
    let stop = AtomicBool::new(false);
    let (signalled, signalled_at, answers) = std::thread::scope(|scope| {
        let asking = (client == Client::Loop).then(|| scope.spawn(|| ask_in_a_loop(address, &stop)));
        // Stops the thread after a panic too, because the scope waits for the thread.
        let _stopped = StopOnDrop(&stop);
        std::thread::sleep(AROUND);
        let (signalled, signalled_at) = (SystemTime::now(), Instant::now());
        server.reload();
        server.wait_log_after(mark, STEPS[STEPS.len() - 1].1, WITHIN);
        std::thread::sleep(AROUND);
        stop.store(true, Relaxed);
        let answers = asking.map(|thread| thread.join().expect("no request is lost"));
        (signalled, signalled_at, answers)
    });
    server.wait_gone(blue, WITHIN);
    let mut since = signalled;
    let steps = STEPS.map(|(_, needle)| {
        let line = server.wait_log_after(mark, needle, WITHIN);
        let until = time_of(&line);
        // An error means that the clock was set back meanwhile.
        let step = until.duration_since(since).unwrap_or_default();
        since = until;
        step
    });
    let seen = answers.map(|answers| {
        let after = |moment: &Instant| moment.duration_since(signalled_at);
        let (of_blue, of_green): (Vec<_>, Vec<_>) = answers.iter().partition(|(_, generation)| *generation == before);
        Seen {
            last_of_blue: of_blue.last().map(|(at, _)| after(at)).expect("blue answered before the signal"),
            first_of_green: of_green.first().map(|(at, _)| after(at)).expect("green answered after the cut over"),
        }
    });
    Reload { steps, seen }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Sends requests until `stop` is set. Returns the time of each answer, and the generation that gave it.
fn ask_in_a_loop(address: SocketAddr, stop: &AtomicBool) -> Vec<(Instant, u64)> {
    let mut answers = Vec::new();
    while !stop.load(Relaxed) {
        let generation = generation(address);
        answers.push((Instant::now(), generation));
    }
    answers
}

/// The generation that answers on a new connection.
fn generation(address: SocketAddr) -> u64 {
    let page = http_get(address, "/").unwrap_or_else(|error| panic!("a request was lost: {error}"));
    let mut lines = page.lines();
    let number = lines.find_map(|line| line.strip_prefix("generation ")?.parse().ok());
    number.unwrap_or_else(|| panic!("a wrong answer: {page}"))
}

fn time_of(line: &str) -> SystemTime {
    let stamp = line.split_whitespace().next().unwrap_or_default();
    humantime::parse_rfc3339(stamp).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// Starts the same program without a reload, and measures the start.
fn start_alone() -> Alone {
    let directory = tempfile::tempdir().expect("make a temporary directory");
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bind NOTIFY_SOCKET");
    socket.set_read_timeout(Some(WITHIN)).expect("set a timeout");
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
    command.args(["serve", "--listen", "127.0.0.1:0"]).env("NOTIFY_SOCKET", &path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn().expect("start the program");
    // `spawn` returns when exec has succeeded.
    let spawned = Instant::now();
    let ready = wait_ready(&socket, &mut child);
    let _ = child.kill();
    let _ = child.wait();
    Alone { exec: spawned - begun, ready: ready - spawned }
}

fn wait_ready(socket: &UnixDatagram, child: &mut Child) -> Instant {
    let mut bytes = [0; 4096];
    loop {
        let count = socket.recv(&mut bytes).unwrap_or_else(|error| {
            let _ = child.kill();
            panic!("the program did not become ready: {error}")
        });
        let ready = Instant::now();
        if bytes[..count].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            return ready;
        }
    }
}

fn total(reload: &Reload) -> Duration {
    reload.steps.iter().sum()
}

fn figures(reloads: &[Reload], of: impl Fn(&Reload) -> Duration) -> Figures {
    reloads.iter().map(of).collect()
}

fn print_steps(quiet: &[Reload], busy: &[Reload]) {
    let mut rows = vec![row([&"", &"quiet", &"client in a loop"])];
    let mut add = |name: &str, of: &dyn Fn(&Reload) -> Duration| {
        rows.push(row([&name, &figures(quiet, of).range(2), &figures(busy, of).range(2)]));
    };
    for (step, (name, _)) in STEPS.iter().enumerate() {
        add(name, &|reload| reload.steps[step]);
    }
    add("total, SIGHUP to 100 % on green", &total);
    add("total less green's own start", &|reload| total(reload) - reload.steps[OWN_START]);
    add("  and less fork and exec", &|reload| total(reload) - reload.steps[OWN_START] - reload.steps[FORK_EXEC]);
    rows.push(row([&"  target, at most", &TARGET_MS, &TARGET_MS]));
    print_table(&rows);
}

fn print_alone(quiet: &[Reload], alone: &[Alone]) {
    let exec: Figures = alone.iter().map(|start| start.exec).collect();
    let ready: Figures = alone.iter().map(|start| start.ready).collect();
    let whole: Figures = alone.iter().map(|start| start.exec + start.ready).collect();
    let beyond = figures(quiet, total).median() - whole.median();
    print_table(&[
        row([&"the same program started alone", &"ms"]),
        row([&"fork, exec", &exec.range(2)]),
        row([&"exec to READY=1", &ready.range(2)]),
        row([&"the whole start", &whole.range(2)]),
        row([&"a quiet reload takes longer by", &format!("{beyond:.2}")]),
    ]);
}

fn print_seen(busy: &[Reload]) {
    let seen: Vec<Seen> = busy.iter().filter_map(|reload| reload.seen).collect();
    let last: Figures = seen.iter().map(|seen| seen.last_of_blue).collect();
    let first: Figures = seen.iter().map(|seen| seen.first_of_green).collect();
    print_table(&[
        row([&"seen by the client, from SIGHUP on", &"ms"]),
        row([&"blue's last answer on a new connection", &last.range(2)]),
        row([&"green's first answer", &first.range(2)]),
    ]);
}
