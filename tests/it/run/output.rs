//! The program writes to the supervisor's stdout and stderr directly, and not through the supervisor.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::http_get;
use crate::support::programs::{Port, pid_in};
use crate::support::run::{Run, resident};
use crate::support::script::Script;

const SOON: Duration = Duration::from_secs(20);

/// A supervisor whose stdout and stderr go to pipes of their own.
struct Piped {
    child: Child,
    out: Option<ChildStdout>,
    err: Option<BufReader<ChildStderr>>,
    folder: tempfile::TempDir,
}

impl Piped {
    fn start(port: &Port, script: &Script) -> Piped {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
        command.args(["run", "--name", "it", "--listen", &port.address.to_string(), "--"]);
        command.args(script.at(port.address)).env("RUNTIME_DIRECTORY", folder.path()).env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("spawned");
        let mut err = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.contains(" live ") {
            line.clear();
            assert!(err.read_line(&mut line).expect("text") > 0, "it has ended");
        }
        Piped { out: child.stdout.take(), err: Some(err), child, folder }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signalled");
    }

    #[track_caller]
    fn wait_answer(&self, port: &Port, is_it: impl Fn(u32) -> bool) -> u32 {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(pid) = http_get(port.address, "/").ok().and_then(|answer| pid_in(&answer)).filter(|p| is_it(*p))
            {
                return pid;
            }
            assert!(Instant::now() < deadline, "no such answer in {SOON:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn ends(mut self) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                assert_eq!(status.code(), Some(0));
                return;
            }
            assert!(Instant::now() < deadline, "it does not end in {SOON:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        // The program ends with the supervisor, if the supervisor can end it.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Each of two generations writes 100 MB, while the first is replaced by the second.
#[test]
fn a_flood_is_not_held_up_and_not_held_in_memory() {
    let text = "
def flood():
    block = b'x' * 99999 + b'\\n'
    for _ in range(1000):
        os.write(1, block)
    print('flooded', file=sys.stderr, flush=True)
threading.Thread(target=flood).start()
serve(sys.argv[1])
";
    let (port, script) = (Port::free(), Script::new(text));
    let mut run = Piped::start(&port, &script);
    let (mut out, err) = (run.out.take().expect("piped"), run.err.take().expect("piped"));
    let first = run.wait_answer(&port, |_| true);
    let before = resident(run.child.id());
    run.signal(Signal::HUP);
    let read = std::thread::spawn(move || {
        let (mut bytes, mut count) = (vec![0; 65536], 0);
        while count < 200_000_000 {
            match out.read(&mut bytes).expect("read") {
                0 => break,
                read => count += read,
            }
        }
        (count, out)
    });
    let lines = std::thread::spawn(move || {
        let mut flooded = 0;
        let mut all = Vec::new();
        for line in err.lines() {
            let line = line.expect("text");
            flooded += usize::from(line == "flooded");
            all.push(line);
            if flooded == 2 {
                break;
            }
        }
        all
    });
    run.wait_answer(&port, |pid| pid != first);
    let all = lines.join().expect("no panic");
    assert_eq!(all.iter().filter(|line| *line == "flooded").count(), 2, "{all:?}");
    let (count, _out) = read.join().expect("no panic");
    assert_eq!(count, 200_000_000);
    let after = resident(run.child.id());
    assert!(after < before + 2048, "from {before} KiB to {after} KiB");
    run.ends();
}

#[test]
fn one_that_closes_its_output() {
    let text = "os.close(0)\nos.close(1)\nos.close(2)\nserve(sys.argv[1])";
    let (port, script) = (Port::free(), Script::new(text));
    let run = Run::at(port.address, script.at(port.address)).ready();
    run.reload_to(2);
    assert_eq!(pid_in(&http_get(port.address, "/").expect("an answer")), Some(run.live()));
    run.signal(run.first_pid(), Signal::TERM);
    assert_eq!(run.wait_exit(SOON).code(), Some(0));
}

/// The reader of the log is gone: the supervisor serves and reloads all the same.
#[test]
fn whoever_reads_the_supervisor_is_gone() {
    let (port, script) = (Port::free(), Script::server());
    let mut run = Piped::start(&port, &script);
    let first = run.wait_answer(&port, |_| true);
    drop((run.out.take(), run.err.take()));
    run.signal(Signal::HUP);
    let second = run.wait_answer(&port, |pid| pid != first);
    // This reload fails, and no process reads the log line about it.
    script.deploy("sys.exit(3)");
    let control = run.folder.path().to_owned();
    let reload = crate::support::verb::Verb::new("reload").within(&control).args(["--name", "it"]).run().with(75);
    assert!(reload.err.contains("exited with status 3"), "{reload:?}");
    assert_eq!(run.wait_answer(&port, |_| true), second);
    run.ends();
}
