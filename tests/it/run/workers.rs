//! A program whose worker processes, each with a listener of its own, die and are replaced: while the program serves,
//! and during a reload.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::load::{Answer, Load, Mode, Plan};
use crate::support::programs::Port;
use crate::support::run::{Run, Running, children_of};
use crate::support::script::Script;
use crate::support::seccomp::Refused;

const SOON: Duration = Duration::from_secs(30);
const WORKERS: usize = 4;
const CLIENTS: usize = 8;

const MASTER: &str = "
workers, stopping = set(), []
def begin():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        serve(sys.argv[1])
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join()
        os._exit(0)
    workers.add(pid)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
def stop(*_):
    stopping.append(1)
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
signal.signal(signal.SIGTERM, stop)
for _ in range(4):
    begin()
while workers:
    pid, _ = os.wait()
    workers.discard(pid)
    if not stopping:
        begin()
";

/// Each worker stops accepting at the stop signal, and shuts its listener down some time later. A copy of the listener
/// does not prevent that, unlike a close.
const SHUTTERS: &str = "
class Stop(Exception):
    pass
def stop(*_):
    raise Stop
def work(delay):
    listener = listen(sys.argv[1])
    signal.signal(signal.SIGTERM, stop)
    try:
        answer(listener)
    except Stop:
        time.sleep(delay)
        listener.shutdown(socket.SHUT_RDWR)
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join()
    os._exit(0)
workers = []
for delay in 0.06, 0, 0.09, 0.03:
    pid = os.fork()
    if pid == 0:
        work(delay)
    workers.append(pid)
signal.signal(signal.SIGTERM, lambda *_: [os.kill(pid, signal.SIGTERM) for pid in workers])
for pid in workers:
    os.waitpid(pid, 0)
";

struct Serving {
    port: Port,
    run: Running,
    load: Load,
    killed: usize,
    script: Script,
}

impl Serving {
    fn start() -> Serving {
        Serving::of(MASTER, |run| run)
    }

    fn of(program: &str, with: impl FnOnce(Run) -> Run) -> Serving {
        let (port, script) = (Port::free(), Script::new(program));
        let run = with(Run::at(port.address, script.at(port.address))).ready();
        let plan = Plan::new([port.address], CLIENTS, Mode::Close);
        let load = Plan { answer: Answer::Pid, pause: Duration::from_millis(2), ..plan }.start();
        load.wait_answered(100, SOON);
        Serving { port, run, load, killed: 0, script }
    }

    /// The workers of the live generation, once all of them are there.
    #[track_caller]
    fn workers(&self, master: u32) -> BTreeSet<u32> {
        let children = || children_of(master);
        self.run.wait_until("it has all its workers", || children().len() == WORKERS);
        children()
    }

    #[track_caller]
    fn kill_one(&mut self, master: u32) {
        let worker = *self.workers(master).first().expect("one");
        self.run.signal(worker, Signal::KILL);
        self.killed += 1;
        self.load.wait_answered(50, SOON);
    }

    /// Asserts that each worker gets connections.
    #[track_caller]
    fn all_answer(&self, master: u32) {
        let workers: BTreeSet<u64> = self.workers(master).into_iter().map(u64::from).collect();
        self.run.wait_until("each worker answers", || workers.is_subset(&self.load.generations()));
    }

    /// Requests at a killed worker may have failed, and no others.
    #[track_caller]
    fn end(self) {
        let report = self.load.stop();
        println!("{} killed: {report}", self.killed);
        let lost = report.failures.total();
        assert!(lost <= (self.killed * CLIENTS) as u64, "{lost} with {} killed: {report}", self.killed);
        self.run.wait_no_zombies();
        let _ = self.port;
    }
}

#[test]
fn while_it_serves() {
    let mut server = Serving::start();
    let master = server.run.live();
    for _ in 0..6 {
        server.kill_one(master);
        server.all_answer(master);
    }
    server.end();
}

#[test]
fn none_dies() {
    let server = Serving::start();
    for generation in 2..=4 {
        server.run.reload_to(generation);
        server.all_answer(server.run.live());
    }
    server.end();
}

/// Each close moves a listener of the live generation to another slot.
fn reloaded(server: Serving) {
    for generation in 2..=6 {
        server.run.reload_to(generation);
        server.run.wait_log(&format!("gone generation={} ", generation - 1), SOON);
        server.all_answer(server.run.live());
    }
    assert!(!server.run.log_contains(" not steered, "), "{}", server.run.log());
    server.end();
}

#[test]
fn they_shut_down_one_after_the_other() {
    reloaded(Serving::of(SHUTTERS, |run| run));
}

#[test]
fn they_shut_down_one_after_the_other_and_no_copy_may_be_had() {
    reloaded(Serving::of(SHUTTERS, |run| run.with(|start| start.refused(Refused::PidfdGetfd))));
}

/// Four workers, then one, then four: the closes of the four move the listener of the single one.
fn reloaded_with_fewer(with: impl FnOnce(Run) -> Run) {
    let server = Serving::of(SHUTTERS, with);
    for generation in 2..=7 {
        let (delays, workers) = if generation % 2 == 0 { ("0.05,", 1) } else { ("0.06, 0, 0.09, 0.03", WORKERS) };
        server.script.deploy(&SHUTTERS.replace("0.06, 0, 0.09, 0.03", delays));
        server.run.reload_to(generation);
        server.run.wait_log(&format!("gone generation={} ", generation - 1), SOON);
        assert_eq!(children_of(server.run.live()).len(), workers);
        server.load.wait_answered(100, SOON);
    }
    assert!(!server.run.log_contains(" not steered, "), "{}", server.run.log());
    server.end();
}

#[test]
fn fewer_follow() {
    reloaded_with_fewer(|run| run);
}

#[test]
fn fewer_follow_and_no_copy_may_be_had() {
    reloaded_with_fewer(|run| run.with(|start| start.refused(Refused::PidfdGetfd)));
}

/// All workers take their time, and then close at once. Until then each of the new workers gets its part.
fn reloaded_late(with: impl FnOnce(Run) -> Run) {
    let late = SHUTTERS.replace("0.06, 0, 0.09, 0.03", "1.5, 1.5, 1.5, 1.5");
    let server = Serving::of(&late, with);
    for generation in 2..=4 {
        let before = children_of(server.run.live());
        server.run.reload_to(generation);
        server.all_answer(server.run.live());
        assert!(before.is_subset(&server.run.members()), "they listen still");
        server.run.wait_log(&format!("gone generation={} ", generation - 1), SOON);
        server.load.wait_answered(100, SOON);
    }
    assert!(!server.run.log_contains(" not steered, "), "{}", server.run.log());
    server.end();
}

#[test]
fn they_shut_down_late() {
    reloaded_late(|run| run);
}

#[test]
fn they_shut_down_late_and_no_copy_may_be_had() {
    reloaded_late(|run| run.with(|start| start.refused(Refused::PidfdGetfd)));
}

#[test]
fn between_two_reloads() {
    let mut server = Serving::start();
    for generation in 2..=4 {
        server.kill_one(server.run.live());
        server.run.reload_to(generation);
        server.kill_one(server.run.live());
        server.all_answer(server.run.live());
    }
    server.end();
}

/// A worker of the old generation dies while the next generation starts.
#[test]
fn in_a_reload() {
    let mut server = Serving::start();
    for generation in 2..=4 {
        let master = server.run.live();
        let mark = server.run.mark();
        server.run.hup();
        server.run.wait_log_after(mark, &format!("spawned generation={generation} "), SOON);
        server.kill_one(master);
        server.run.wait_log_after(mark, &format!("generation {generation} is live"), SOON);
        server.all_answer(server.run.live());
    }
    server.end();
}
