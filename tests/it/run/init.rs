//! The supervisor as the first process of a PID namespace, as in a container, or as a subreaper elsewhere: it adopts
//! orphans, and reaps them.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::process::{Instance, Start};
use crate::support::programs::{Port, pid_in};
use crate::support::run::{Run, children_of, wait_until, zombies_of};
use crate::support::script::Script;
use crate::support::{http_get, skip};

const SOON: Duration = Duration::from_secs(20);
const CUTOVER: &str = env!("CARGO_BIN_EXE_cutover");

/// At each SIGUSR1 the program leaves two orphans: one ends at once, and one stays. The exit code is 7.
const ORPHANS: &str = "
listener = listen(sys.argv[1])
stop_at(listener)
def leave(time_it_lives):
    if os.fork() == 0:
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.write(1, b'an orphan\\n')
            time.sleep(time_it_lives)
        os._exit(0)
    os.wait()
signal.signal(signal.SIGUSR1, lambda *_: leave(0) or leave(600))
answer(listener)
sys.exit(7)
";

/// A supervisor that is the first process of its namespace, and its PID outside.
struct Container {
    unshare: Instance,
    first: u32,
}

impl Container {
    fn start(port: &Port, script: &Script) -> Option<Container> {
        if !rustix::process::geteuid().is_root() {
            skip("only root can make a PID namespace");
            return None;
        }
        let unshare =
            Start::program("unshare").args(["--pid", "--fork", "--mount-proc", "--kill-child", CUTOVER, "run"]);
        let unshare =
            unshare.args(["--name", "it", "--listen", &port.address.to_string(), "--"]).args(script.at(port.address));
        let unshare = unshare.ready();
        let first = children_of(unshare.first_pid());
        assert_eq!(first.len(), 1, "the first process of the namespace");
        Some(Container { first: *first.first()?, unshare })
    }

    /// Waits until this many processes are there, the supervisor included, and no zombie.
    #[track_caller]
    fn wait_processes(&self, wanted: usize) {
        wait_until(&format!("{wanted} processes and no zombie"), || {
            1 + children_of(self.first).len() == wanted && zombies_of(self.first).is_empty()
        });
    }
}

#[test]
fn as_the_first_process_it_reaps_what_it_adopts_and_passes_signals_and_the_code_on() {
    let (port, script) = (Port::free(), Script::new(ORPHANS));
    let Some(container) = Container::start(&port, &script) else { return };
    let live = container.unshare.wait_log(" live generation=1 ", SOON);
    assert!(!live.contains("pid=1 "), "{live}");
    container.unshare.signal(container.first, Signal::USR1);
    // The supervisor, the program, and the orphan that stays.
    let both = || container.unshare.count_log("an orphan") == 2;
    wait_until("both have begun", both);
    container.wait_processes(3);
    let before = http_get(port.address, "/").expect("an answer");
    container.unshare.signal(container.first, Signal::HUP);
    container.unshare.wait_log("generation 2 is live", SOON);
    container.unshare.wait_log("gone generation=1", SOON);
    // The orphan of the old generation has ended with it.
    container.wait_processes(2);
    assert_ne!(pid_in(&before), pid_in(&http_get(port.address, "/").expect("an answer")));
    container.unshare.signal(container.first, Signal::TERM);
    assert_eq!(container.unshare.wait_exit(SOON).code(), Some(7), "{}", container.unshare.log());
    assert!(!container.unshare.log_contains("WARN orphans"), "{}", container.unshare.log());
}

/// The kernel drops a signal that a first process does not handle; the supervisor passes on the program's death by a
/// signal.
#[test]
fn as_the_first_process_it_passes_a_death_on() {
    let (port, script) = (Port::free(), Script::new("answer(listen(sys.argv[1]))"));
    let Some(container) = Container::start(&port, &script) else { return };
    container.unshare.signal(container.first, Signal::TERM);
    assert_eq!(container.unshare.wait_exit(SOON).code(), Some(128 + 15), "{}", container.unshare.log());
}

#[test]
fn elsewhere_it_adopts_them_too() {
    let (port, script) = (Port::free(), Script::new(ORPHANS));
    let run = Run::at(port.address, script.at(port.address)).args(["--stop-timeout", "1s"]).ready();
    run.signal(run.first_pid(), Signal::USR1);
    run.wait_until("both have begun", || run.count_log("an orphan") == 2);
    run.wait_until("the program and its orphan", || children_of(run.first_pid()).len() == 2);
    run.wait_no_zombies();
    assert_eq!(children_of(run.first_pid()).len(), 2);
    run.signal(run.first_pid(), Signal::TERM);
    assert_eq!(run.wait_exit(SOON).code(), Some(7), "{}", run.log());
    assert_eq!(run.members(), [].into());
}

/// Each of two generations makes a thousand orphans, while the first is replaced by the second.
#[test]
fn a_thousand_orphans_at_once() {
    let text = "
import subprocess
def make():
    many = 'i=0; while [ $i -lt 1000 ]; do (sleep 0.5 &); i=$((i+1)); done'
    subprocess.run(['/bin/sh', '-c', many])
    print('made', flush=True)
threading.Thread(target=make).start()
serve(sys.argv[1])
";
    let (port, script) = (Port::free(), Script::new(text));
    let run = Run::at(port.address, script.at(port.address)).ready();
    let first = run.live();
    let before = run.resident();
    run.wait_log("made", SOON);
    run.reload_to(2);
    for _ in 0..20 {
        assert_eq!(pid_in(&http_get(port.address, "/").expect("an answer")), Some(run.live()));
    }
    run.wait_until("both have made them", || run.count_log("made") == 2);
    run.wait_reaped(first);
    run.wait_until("all are gone", || run.members() == [run.live()].into());
    run.wait_no_zombies();
    let after = run.resident();
    assert!(after < before + 2048, "from {before} KiB to {after} KiB");
    assert_eq!(children_of(run.first_pid()), [run.live()].into());
}
