//! Notifications to a service manager (sd_notify(3)): all come from the supervisor, which stays the main process.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::process::Notification;
use crate::support::programs::Port;
use crate::support::run::{Run, Running};
use crate::support::script::Script;

const SOON: Duration = Duration::from_secs(20);

/// All notifications; asserts that each one is from the supervisor, and names no other process.
#[track_caller]
fn heard(run: &Running) -> Vec<Notification> {
    let all = run.notifications();
    for one in &all {
        assert_eq!(one.pid, run.first_pid(), "{one:?}");
        assert_eq!(one.value("MAINPID"), None, "{one:?}");
    }
    all
}

fn states(all: &[Notification]) -> Vec<&str> {
    let keys = ["READY", "RELOADING", "STOPPING"];
    all.iter().flat_map(|one| keys.into_iter().filter(|key| one.value(key) == Some("1"))).collect()
}

#[test]
fn ready_reloading_and_stopping() {
    let (port, script) = (Port::free(), Script::new("notify('STATUS=warms up')\nserve(sys.argv[1])"));
    let run = Run::at(port.address, script.at(port.address)).ready();
    let ready = run.wait_notification("READY=1", Duration::ZERO);
    let live = run.wait_log(" live generation=1 ", Duration::ZERO);
    assert!(live.contains("phase=serving"), "{live}");
    assert_eq!(ready.value("STATUS"), Some("generation 1 serves: 0 connections; warms up"));
    assert_eq!(states(&heard(&run)), ["READY"]);
    run.reload_to(2);
    run.wait_notification("READY=1\nSTATUS=generation 2 serves: ", SOON);
    let all = heard(&run);
    assert_eq!(states(&all), ["READY", "RELOADING", "READY"]);
    let reloading = all.iter().find(|one| one.value("RELOADING").is_some()).expect("just seen");
    assert!(reloading.value("MONOTONIC_USEC").is_some(), "{reloading:?}");
    let so_far = all.len();
    script.deploy("sys.exit(3)");
    run.reload_fails();
    let ready = run.wait_notification_after(so_far, "READY=1", SOON);
    let status = ready.value("STATUS").expect("one");
    let failed = "; generation 3 failed: exited with status 3";
    assert!(status.starts_with("generation 2 serves: ") && status.contains(failed), "{status}");
    assert_eq!(states(&heard(&run)), ["READY", "RELOADING", "READY", "RELOADING", "READY"]);
    run.signal(run.first_pid(), Signal::TERM);
    assert_eq!(run.wait_exit(SOON).code(), Some(0));
    run.wait_notification("STOPPING=1", SOON);
    assert_eq!(states(&heard(&run)).last(), Some(&"STOPPING"));
}

#[test]
fn not_ready_before_the_first_generation_is() {
    let (port, script) = (Port::free(), Script::server());
    let go = script.file("go");
    script.deploy(&format!(
        "notify('READY=1')\nprint('waits', flush=True)\nwhile not os.path.exists({go:?}):\n    time.sleep(0.01)\nserve(sys.argv[1])"
    ));
    let run = Run::at(port.address, script.at(port.address)).spawn();
    run.wait_log("waits", SOON);
    assert_eq!(states(&heard(&run)), [] as [&str; 0]);
    std::fs::write(go, "").expect("written");
    run.wait_notification("READY=1", SOON);
    assert_eq!(states(&heard(&run)), ["READY"]);
}

#[test]
fn one_that_cannot_begin_was_never_ready() {
    let port = Port::free();
    let run = Run::at(port.address, ["sh", "-c", "exit 3"]).spawn();
    run.wait_exit(SOON);
    assert_eq!(states(&heard(&run)), [] as [&str; 0]);
}

/// The status text of the program comes with the next heartbeat.
#[test]
fn what_the_program_says_about_itself() {
    let text = "
listener = listen(sys.argv[1])
stop_at(listener)
signal.signal(signal.SIGUSR1, lambda *_: notify('STATUS=42 of 100'))
answer(listener)
";
    let (port, script) = (Port::free(), Script::new(text));
    let run = Run::at(port.address, script.at(port.address)).ready();
    run.signal(run.live(), Signal::USR1);
    let told = run.wait_notification("42 of 100", SOON);
    assert_eq!(told.text.trim(), "STATUS=generation 1 serves: 0 connections; 42 of 100");
    heard(&run);
}

const WATCHDOG: Duration = Duration::from_millis(1500);

fn watched(text: &str) -> (Port, Script, Running) {
    let (port, script) = (Port::free(), Script::new(text));
    let usec = WATCHDOG.as_micros().to_string();
    let run = Run::at(port.address, script.at(port.address)).with(|start| start.env("WATCHDOG_USEC", usec)).ready();
    (port, script, run)
}

/// Waits for this many more pings, and returns the longest time without one.
#[track_caller]
fn pings(run: &Running, more: usize) -> Duration {
    let mut last = Instant::now();
    let mut longest = Duration::ZERO;
    let mut so_far = run.notifications().len();
    for _ in 0..more {
        let ping = run.wait_notification_after(so_far, "WATCHDOG=1", SOON);
        longest = longest.max(ping.at.saturating_duration_since(last));
        last = last.max(ping.at);
        let all = run.notifications();
        so_far += all[so_far..].iter().position(|one| one.text.contains("WATCHDOG=1")).expect("just seen") + 1;
    }
    longest
}

/// Waits until no ping has come for longer than the watchdog's time.
#[track_caller]
fn is_noticed(run: &Running) {
    run.wait_until("nobody pings any more", || {
        let all = run.notifications();
        let mut pings = all.iter().filter(|one| one.text.contains("WATCHDOG"));
        pings.next_back().is_some_and(|last| last.at.elapsed() > WATCHDOG)
    });
}

#[test]
fn the_watchdog_of_a_program_that_knows_of_none() {
    let (_port, _script, run) = watched("serve(sys.argv[1])");
    assert!(pings(&run, 5) < WATCHDOG);
    run.reload_to(2);
    assert!(pings(&run, 5) < WATCHDOG);
    heard(&run);
}

/// A program that pings at a third of the watchdog's time, as the supervisor does; WATCHDOG_PID must not name another
/// process.
const PINGS: &str = "
assert 'WATCHDOG_PID' not in os.environ
def ping():
    # Signals are for the main thread, which is woken by them: this one may be the first to run when it is thawed.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    while True:
        notify('WATCHDOG=1')
        time.sleep(int(os.environ['WATCHDOG_USEC']) / 3e6)
threading.Thread(target=ping, daemon=True).start()
serve(sys.argv[1])
";

/// From the first ping on, the program's own pings count: a program that hangs is detected.
#[test]
fn the_watchdog_of_a_program_that_pings() {
    let (_port, _script, run) = watched(PINGS);
    assert!(pings(&run, 5) < WATCHDOG);
    let first = run.live();
    run.freeze(first);
    is_noticed(&run);
    run.signal(first, Signal::CONT);
    assert!(pings(&run, 5) < WATCHDOG);
    // During a reload the pings of one of the generations always count.
    run.reload_to(2);
    run.wait_reaped(first);
    assert!(pings(&run, 3) < WATCHDOG);
    run.freeze(run.live());
    is_noticed(&run);
    heard(&run);
}

/// The program hangs, and a reload is requested: the pings of the next generation count as soon as it is live.
#[test]
fn a_reload_of_a_program_that_hangs() {
    let (_port, _script, run) = watched(PINGS);
    pings(&run, 2);
    let first = run.live();
    run.freeze(first);
    is_noticed(&run);
    run.reload_to(2);
    assert!(pings(&run, 5) < WATCHDOG);
    run.wait_reaped(first);
}

#[test]
fn a_program_that_triggers_its_watchdog() {
    let text = "
listener = listen(sys.argv[1])
stop_at(listener)
signal.signal(signal.SIGUSR1, lambda *_: notify('WATCHDOG=trigger'))
answer(listener)
";
    let (_port, _script, run) = watched(text);
    run.signal(run.live(), Signal::USR1);
    run.wait_notification("WATCHDOG=trigger", SOON);
}
