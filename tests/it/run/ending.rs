//! The end of `cutover run`: with the program's exit code, in time, and with no process left; and a generation that
//! ends by itself.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::http_get;
use crate::support::programs::{Port, UnderWay, pid_in};
use crate::support::run::{Run, Running};
use crate::support::script::Script;
use crate::support::verb::{Verb, folder};

const SOON: Duration = Duration::from_secs(20);

/// A program that ignores SIGTERM, as does its child.
const DEAF: &str = "
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = listen(sys.argv[1])
if os.fork() == 0:
    time.sleep(600)
answer(listener)
";

fn started(text: &str, args: &[&str]) -> (Port, Script, Running) {
    let (port, script) = (Port::free(), Script::new(text));
    let run = Run::at(port.address, script.at(port.address)).args(args).ready();
    (port, script, run)
}

#[track_caller]
fn answered_by(port: &Port) -> u32 {
    pid_in(&http_get(port.address, "/").expect("an answer")).expect("a pid")
}

#[track_caller]
fn ends_with(run: &Running, code: i32) {
    assert_eq!(run.wait_exit(SOON).code(), Some(code), "{}", run.log());
    assert_eq!(run.members(), [].into());
}

#[test]
fn the_code_of_the_program_is_passed_on() {
    for (end, code) in [("sys.exit(0)", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", 128 + 9)] {
        let text = format!("listener = listen(sys.argv[1])\nstop_at(listener)\nanswer(listener)\n{end}");
        let (_port, _script, run) = started(&text, &[]);
        run.signal(run.first_pid(), Signal::TERM);
        ends_with(&run, code);
    }
}

/// The program has no handler for the signal, and is killed.
#[test]
fn one_that_is_killed_by_the_stop_signal() {
    let (_port, _script, run) = started("answer(listen(sys.argv[1]))", &[]);
    run.signal(run.first_pid(), Signal::TERM);
    ends_with(&run, 128 + 15);
}

#[test]
fn one_that_is_killed_from_outside() {
    let (_port, _script, run) = started("serve(sys.argv[1])", &[]);
    run.signal(run.live(), Signal::KILL);
    ends_with(&run, 128 + 9);
}

#[test]
fn one_that_ignores_the_stop_signal_is_killed_in_its_time() {
    let (_port, _script, run) = started(DEAF, &["--stop-timeout", "1s"]);
    run.wait_until("it has a child", || run.members().len() == 2);
    run.signal(run.first_pid(), Signal::TERM);
    run.wait_log("has not ended in its time, killing it generation=1", SOON);
    ends_with(&run, 128 + 9);
    let (_port, _script, run) = started(DEAF, &["--stop-timeout", "1s"]);
    run.wait_until("it has a child", || run.members().len() == 2);
    let stop = Verb::new("stop").within(&folder(&run)).args(["--name", "it"]).run().with(0);
    assert!(stop.out.ends_with("instance it is stopped\n"), "{stop:?}");
    ends_with(&run, 128 + 9);
}

#[test]
fn an_old_one_that_ignores_the_stop_signal_is_killed_in_its_time() {
    let (port, script, run) = started(DEAF, &["--stop-timeout", "1s"]);
    run.wait_until("it has a child", || run.members().len() == 2);
    let first = run.live();
    script.deploy("serve(sys.argv[1])");
    run.reload_to(2);
    run.wait_log("has not ended in its time, killing it generation=1", SOON);
    run.wait_log("gone generation=1", SOON);
    run.wait_until("only the new one is left", || run.members() == [run.live()].into());
    assert!(answered_by(&port) != first);
}

#[test]
fn a_second_stop_ends_at_once() {
    let (_port, _script, run) = started(DEAF, &["--stop-timeout", "1h"]);
    run.wait_until("it has a child", || run.members().len() == 2);
    run.signal(run.first_pid(), Signal::TERM);
    run.wait_log("to=draining", SOON);
    run.signal(run.first_pid(), Signal::TERM);
    ends_with(&run, 128 + 9);
}

/// A second stop also ends at once a program that was not ready.
#[test]
fn a_second_stop_ends_at_once_what_was_not_ready() {
    let text = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.fork()\nos.write(1, b'sleeps\\n')\ntime.sleep(600)";
    let (port, script) = (Port::free(), Script::new(text));
    let run = Run::at(port.address, script.at(port.address)).args(["--stop-timeout", "1h"]).spawn();
    run.wait_until("both sleep", || run.count_log("sleeps") == 2);
    run.signal(run.first_pid(), Signal::TERM);
    // A second SIGTERM would be merged with the first one, if that is still pending.
    run.signal(run.first_pid(), Signal::INT);
    ends_with(&run, 128 + 9);
    let run = Run::at(port.address, script.at(port.address)).args(["--stop-timeout", "1s"]).spawn();
    run.wait_until("both sleep", || run.count_log("sleeps") == 2);
    run.signal(run.first_pid(), Signal::TERM);
    ends_with(&run, 128 + 9);
}

/// A shell that forwards no signal: its child gets the stop signal as well, in a reload and at the end, and finishes
/// its requests.
#[test]
fn what_the_first_process_leaves_behind_is_told_to_stop() {
    let (port, script) = (Port::free(), Script::server());
    let command = script.at(port.address).join(" ");
    let run = Run::at(port.address, ["sh", "-c", &format!("{command}; true")]).ready();
    run.wait_until("a shell and a server", || run.members().len() == 2);
    let (shell, server) = (run.live(), answered_by(&port));
    assert_ne!(shell, server);
    let under_way = UnderWay::begin(port.address);
    run.reload_to(2);
    run.wait_reaped(shell);
    assert_eq!(pid_in(&under_way.finish()), Some(server));
    run.wait_reaped(server);
    run.wait_log("gone generation=1", SOON);
    run.signal(run.first_pid(), Signal::TERM);
    ends_with(&run, 128 + 15);
}

/// Two reloads come and go while the first generation finishes its request.
#[test]
fn an_old_one_drains_while_newer_ones_come_and_go() {
    let (port, _script, run) = started("serve(sys.argv[1])", &["--linger", "100ms"]);
    let first = run.live();
    let under_way = UnderWay::begin(port.address);
    for generation in [2, 3] {
        let before = run.live();
        run.reload_to(generation);
        if before != first {
            run.wait_log(&format!("gone generation={}", generation - 1), SOON);
        }
    }
    assert_eq!(run.members(), [first, run.live()].into());
    assert_eq!(pid_in(&under_way.finish()), Some(first));
    run.wait_log("gone generation=1", SOON);
    assert_eq!(run.members(), [run.live()].into());
}

#[test]
fn the_oldest_of_four_that_drain_is_ended() {
    let (port, _script, run) = started("serve(sys.argv[1])", &["--linger", "100ms"]);
    let mut under_way = Vec::new();
    for generation in 2..=4 {
        under_way.push(UnderWay::begin(port.address));
        let before = run.live();
        run.reload_to(generation);
        run.wait_log(&format!("draining generation={}", generation - 1), SOON);
        assert!(run.members().contains(&before));
    }
    assert_eq!(run.members().len(), 4);
    under_way.push(UnderWay::begin(port.address));
    run.reload_to(5);
    run.wait_log("3 generations drain already, ending the oldest generation=1", SOON);
    run.wait_log("gone generation=1", SOON);
    run.wait_log("draining generation=4", SOON);
    assert_eq!(run.members().len(), 4);
    let mut under_way = under_way.into_iter();
    assert!(under_way.next().expect("one").was_cut());
    for (one, generation) in under_way.zip(2..) {
        assert!(one.finish().starts_with("HTTP/1.1 200 OK"));
        run.wait_log(&format!("gone generation={generation}"), SOON);
    }
}

/// The first generation drains, for a request that is under way; the second one is live.
fn one_drains() -> (Port, Script, Running, UnderWay) {
    let (port, script, run) = started("serve(sys.argv[1])", &["--linger", "100ms"]);
    let under_way = UnderWay::begin(port.address);
    run.reload_to(2);
    run.wait_log("draining generation=1", SOON);
    (port, script, run, under_way)
}

/// No serving generation is left, so the draining ones are ended.
#[test]
fn one_that_ends_by_itself_while_an_older_one_drains() {
    let (_port, _script, run, under_way) = one_drains();
    run.signal(run.live(), Signal::KILL);
    ends_with(&run, 128 + 9);
    run.wait_log("killed while it drained, because no generation is left that serves generation=1", SOON);
    assert!(under_way.was_cut());
}

/// A stop waits for the draining generations; a second stop does not.
#[test]
fn a_stop_while_an_older_one_drains() {
    let (_port, _script, run, under_way) = one_drains();
    run.signal(run.first_pid(), Signal::TERM);
    run.wait_log("draining generation=2", SOON);
    assert!(under_way.finish().starts_with("HTTP/1.1 200 OK"));
    ends_with(&run, 0);

    let (_port, _script, run, under_way) = one_drains();
    run.signal(run.first_pid(), Signal::TERM);
    run.wait_log("draining generation=2", SOON);
    run.signal(run.first_pid(), Signal::TERM);
    run.wait_exit(SOON);
    assert_eq!(run.members(), [].into());
    assert!(under_way.was_cut());
}

/// The next generation has started already, and is the only one left: it becomes live at once, and is ready later.
#[test]
fn one_that_ends_by_itself_while_the_next_one_starts() {
    let (port, script, run) = started("serve(sys.argv[1])", &[]);
    let (first, go) = (run.live(), script.file("go"));
    script.deploy(&format!(
        "print('begun', flush=True)\nwhile not os.path.exists({go:?}):\n    time.sleep(0.01)\nserve(sys.argv[1])"
    ));
    run.hup();
    run.wait_log("begun", SOON);
    run.signal(first, Signal::KILL);
    run.wait_log("generation 2 is live", SOON);
    std::fs::write(go, "").expect("written");
    run.wait_until("it serves", || http_get(port.address, "/").is_ok());
    assert_eq!(answered_by(&port), run.live());
    script.deploy("serve(sys.argv[1])");
    run.reload_to(3);
    assert_eq!(answered_by(&port), run.live());
    run.signal(run.first_pid(), Signal::TERM);
    ends_with(&run, 0);
}
