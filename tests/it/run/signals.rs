//! The supervisor forwards its signals to the first process of the program, unchanged where they have no meaning for
//! itself.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::programs::Port;
use crate::support::run::{Run, Running};
use crate::support::script::Script;

const SOON: Duration = Duration::from_secs(20);

/// A program that prints each signal, and ends at SIGTERM, SIGINT or SIGQUIT with a code that identifies the signal.
const LISTENER: &str = "
listener = listen(sys.argv[1])
def got(number, _):
    # At once: a log line of the supervisor may come between two writes.
    print(f'generation got {signal.Signals(number).name}', flush=True)
    if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        code.append(40 + number)
        listener.shutdown(socket.SHUT_RDWR)
code = []
for name in ('HUP', 'INT', 'QUIT', 'TERM', 'USR1', 'USR2', 'WINCH'):
    signal.signal(getattr(signal, 'SIG' + name), got)
print('handles all', flush=True)
answer(listener)
sys.exit(code[0])
";

fn started(args: &[&str]) -> (Port, Script, Running) {
    let (port, script) = (Port::free(), Script::new(LISTENER));
    let run = Run::at(port.address, script.at(port.address)).args(args).spawn();
    run.wait_log(" live generation=1 ", SOON);
    run.wait_log("handles all", SOON);
    (port, script, run)
}

#[test]
fn those_that_mean_nothing_to_the_supervisor_go_to_the_program() {
    let (_port, _script, run) = started(&[]);
    for (signal, name) in [(Signal::USR1, "USR1"), (Signal::USR2, "USR2"), (Signal::WINCH, "WINCH")] {
        run.signal(run.first_pid(), signal);
        run.wait_log(&format!("generation got SIG{name}"), SOON);
    }
    // The signal goes to the live generation.
    let (before, first) = (run.mark(), run.live());
    run.reload_to(2);
    run.wait_reaped(first);
    let after = run.mark();
    run.signal(run.first_pid(), Signal::USR1);
    run.wait_log_after(after, "generation got SIGUSR1", SOON);
    assert!(run.log_contains("generation got SIGTERM"), "the old one was told to stop");
    run.wait_log_after(before, "handles all", SOON);
    assert_eq!(run.count_log("generation got SIGHUP"), 0, "{}", run.log());
}

#[test]
fn a_stop_goes_to_the_program_as_what_it_is() {
    for (args, signal, name, code) in [
        (&[][..], Signal::TERM, "TERM", 40 + 15),
        (&["--stop-signal", "QUIT"], Signal::TERM, "QUIT", 40 + 3),
        (&["--stop-signal", "2"], Signal::TERM, "INT", 40 + 2),
        (&[], Signal::INT, "INT", 40 + 2),
        (&[], Signal::QUIT, "QUIT", 40 + 3),
        (&["--stop-signal", "QUIT"], Signal::INT, "INT", 40 + 2),
    ] {
        let (_port, _script, run) = started(args);
        run.signal(run.first_pid(), signal);
        assert_eq!(run.wait_exit(SOON).code(), Some(code), "{}", run.log());
        assert_eq!(run.count_log("generation got"), 1, "{}", run.log());
        assert_eq!(run.count_log(&format!("generation got SIG{name}")), 1, "{}", run.log());
        assert_eq!(run.members(), [].into());
    }
}

/// A signal that the program does not handle yet would kill it: that is up to the program.
#[test]
fn before_the_first_generation_is_ready() {
    let text = LISTENER.replace("listener = listen(sys.argv[1])", "").replace(
        "answer(listener)",
        "
while signal.sigtimedwait([], 0.01) is None and not os.path.exists(sys.argv[2]):
    pass
listener = listen(sys.argv[1])
answer(listener)",
    );
    let (port, script) = (Port::free(), Script::new(&text));
    let (go, address) = (script.file("go"), port.address);
    let words = [script.at(address), vec![go.clone()]].concat();
    let run = Run::at(address, words).spawn();
    run.wait_log("handles all", SOON);
    for (signal, name) in [(Signal::USR1, "USR1"), (Signal::USR2, "USR2"), (Signal::WINCH, "WINCH")] {
        run.signal(run.first_pid(), signal);
        run.wait_log(&format!("generation got SIG{name}"), SOON);
    }
    run.hup();
    let line = run.wait_log("reload refused", SOON);
    assert!(line.contains("the first generation is not ready"), "{line}");
    assert_eq!(run.count_log("generation got SIGHUP"), 0);
    std::fs::write(go, "").expect("written");
    run.wait_log(" live generation=1 ", SOON);
}

#[test]
fn a_stop_before_the_first_generation_is_ready() {
    let text = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\nprint('sleeps', flush=True)\ntime.sleep(600)";
    let (port, script) = (Port::free(), Script::new(text));
    let run = Run::at(port.address, script.at(port.address)).spawn();
    run.wait_log("sleeps", SOON);
    run.signal(run.first_pid(), Signal::TERM);
    assert_eq!(run.wait_exit(SOON).code(), Some(5), "{}", run.log());
    assert!(!run.log_contains("before it was ready"), "it was told to: {}", run.log());
}

/// The generation that is asked over HTTP gets the stop signal, or ends: the supervisor does not wait for its answer.
#[test]
fn a_stop_and_an_end_while_the_first_generation_is_asked() {
    let text = "
def status():
    print('asked', flush=True)
    if len(sys.argv) > 2:
        os._exit(3)
    return '503 Service Unavailable'
serve(sys.argv[1], status=status)
";
    let (port, script) = (Port::free(), Script::new(text));
    let run = Run::at(port.address, script.at(port.address)).args(["--ready", "http:/"]).spawn();
    run.wait_log("asked", SOON);
    run.signal(run.first_pid(), Signal::TERM);
    assert_eq!(run.wait_exit(Duration::from_secs(10)).code(), Some(0), "{}", run.log());
    let words = [script.at(port.address), vec!["die".into()]].concat();
    let run = Run::at(port.address, words).args(["--ready", "http:/"]).spawn();
    assert_eq!(run.wait_exit(Duration::from_secs(10)).code(), Some(3), "{}", run.log());
    run.wait_log("exited with status 3 before it was ready", SOON);
}
