//! Readiness of a generation, the first one and the next: by a notification, by an HTTP answer, by time.

use std::time::{Duration, Instant};

use crate::support::http_get;
use crate::support::programs::{Port, pid_in};
use crate::support::run::{Run, Running};
use crate::support::script::Script;

const SOON: Duration = Duration::from_secs(20);

fn spawn(text: &str, args: &[&str]) -> (Port, Script, Running) {
    let (port, script) = (Port::free(), Script::new(text));
    let run = Run::at(port.address, script.at(port.address)).args(args).spawn();
    (port, script, run)
}

#[track_caller]
fn answered_by(port: &Port) -> u32 {
    pid_in(&http_get(port.address, "/").expect("an answer")).expect("a pid")
}

/// A program that listens long before its READY=1, and waits for the file `go` in between.
fn waits(go: &str, then: &str) -> String {
    format!(
        "
listener = listen(sys.argv[1])
stop_at(listener)
print('listens', flush=True)
while not os.path.exists({go:?}):
    time.sleep(0.01)
{then}
answer(listener)
"
    )
}

/// Asserts that the first generation is ready from now on, and not before; returns its PID. The next generation has to
/// wait again.
fn is_first_from(go: &str, run: &Running) -> u32 {
    // The program cannot be ready before the file exists, so this check needs no waiting time.
    assert!(!run.log_contains(" live generation=1 "));
    std::fs::write(go, "").expect("written");
    run.wait_log(" live generation=1 ", SOON);
    std::fs::remove_file(go).expect("removed");
    run.live()
}

/// Asserts that all users are on the old generation while the new one listens beside it, and on the new one from now
/// on.
fn is_live_from(go: &str, port: &Port, run: &Running, first: u32) {
    for _ in 0..20 {
        assert_eq!(answered_by(port), first);
    }
    std::fs::write(go, "").expect("written");
    run.wait_log("generation 2 is live", SOON);
    assert_eq!(answered_by(port), run.live());
}

#[test]
fn it_says_so() {
    let (port, script) = (Port::free(), Script::server());
    let go = script.file("go");
    script.deploy(&waits(&go, "notify('STATUS=warm\\nREADY=1')"));
    let run = Run::at(port.address, script.at(port.address)).args(["--ready", "notify"]).spawn();
    run.wait_log("listens", SOON);
    let first = is_first_from(&go, &run);
    let mark = run.mark();
    run.hup();
    run.wait_log_after(mark, "listens", SOON);
    is_live_from(&go, &port, &run, first);
}

#[test]
fn a_child_of_it_says_so() {
    let text = "
if os.fork() == 0:
    notify('READY=1')
    serve(sys.argv[1])
    sys.exit(0)
child = os.wait
signal.signal(signal.SIGTERM, lambda *_: os.kill(0, signal.SIGTERM))
child()
";
    let (port, _script, run) = spawn(text, &["--ready", "notify"]);
    run.wait_log(" live generation=1 ", SOON);
    run.wait_until("it serves", || http_get(port.address, "/").is_ok());
    assert_ne!(answered_by(&port), run.live(), "by the child");
    run.reload_to(2);
    run.wait_until("the old one is gone", || run.members().len() == 2);
}

#[test]
fn what_a_stranger_says_does_not_count() {
    let (port, script) = (Port::free(), Script::server());
    let (go, name) = (script.file("go"), script.file("name"));
    let says = format!("open({name:?}, 'w').write(os.environ['NOTIFY_SOCKET'])\nprint('told', flush=True)\n");
    script.deploy(&(says + &waits(&go, "notify('READY=1')")));
    let run = Run::at(port.address, script.at(port.address)).args(["--ready", "notify"]).spawn();
    run.wait_log("listens", SOON);
    let name = std::fs::read_to_string(name).expect("its NOTIFY_SOCKET");
    let stranger = "import os, socket, sys
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1\\nERRNO=2', '\\0' + sys.argv[1][1:])";
    let sent = std::process::Command::new("python3").args(["-c", stranger, &name]).status().expect("run");
    assert!(sent.success());
    run.wait_log("ignoring notifications that do not come from a process of this generation", SOON);
    assert!(!run.log_contains(" live generation=1 "));
    std::fs::write(go, "").expect("written");
    run.wait_log(" live generation=1 ", SOON);
}

#[test]
fn it_says_that_it_failed() {
    let text = "notify('STATUS=no database\\nERRNO=111')\ntime.sleep(600)";
    let (_port, _script, run) = spawn(text, &["--ready", "notify"]);
    assert_eq!(run.wait_exit(SOON).code(), Some(69), "{}", run.log());
    run.wait_log("cannot begin: generation 1 could not start: Connection refused (os error 111); nothing runs", SOON);
    run.wait_log("no database", SOON);
    assert_eq!(run.members(), [].into());
    let (_port, script, run) = spawn("notify('READY=1')\nserve(sys.argv[1])", &[]);
    run.wait_log(" live generation=1 ", SOON);
    let first = run.live();
    script.deploy(text);
    let line = run.reload_fails();
    assert!(line.contains("generation 2 could not start: Connection refused"), "{line}");
    run.wait_until("nothing of it is left", || run.members() == [first].into());
}

/// Each generation is ready only after the ready timeout; the service manager gets the request for more time, too.
#[test]
fn it_asks_for_more_time() {
    let text = "
notify('EXTEND_TIMEOUT_USEC=20000000')
time.sleep(2)
notify('READY=1')
serve(sys.argv[1])
";
    let (_port, _script, run) = spawn(text, &["--ready", "notify", "--ready-timeout", "1s"]);
    run.wait_log(" live generation=1 ", SOON);
    let so_far = run.notifications().len();
    run.wait_notification("EXTEND_TIMEOUT_USEC=20000000", Duration::ZERO);
    run.reload_to(2);
    run.wait_notification_after(so_far, "EXTEND_TIMEOUT_USEC=20000000", SOON);
}

#[test]
fn it_does_not_say_so_in_time() {
    let (_port, _script, run) = spawn("serve(sys.argv[1])", &["--ready", "notify", "--ready-timeout", "1s"]);
    assert_eq!(run.wait_exit(SOON).code(), Some(69), "{}", run.log());
    run.wait_log("cannot begin: generation 1 did not become ready in 1s; nothing runs", SOON);
}

#[test]
fn it_has_run_for_so_long() {
    let (_port, _script, run) = spawn("serve(sys.argv[1])", &["--ready", "delay:1500ms"]);
    run.wait_log(" spawned generation=1 ", SOON);
    let began = Instant::now();
    run.wait_log(" live generation=1 ", SOON);
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
    let began = Instant::now();
    run.reload_to(2);
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
}

/// After the delay the generation must listen all the same: the supervisor checks that.
#[test]
fn it_has_run_for_so_long_and_does_not_listen() {
    let (port, script, run) = spawn("serve(sys.argv[1])", &["--ready", "delay:1s"]);
    run.wait_log(" live generation=1 ", SOON);
    let first = run.live();
    script.deploy("time.sleep(600)");
    let line = run.reload_fails();
    assert!(line.contains(&format!("does not listen on {}; generation 1 serves on", port.address)), "{line}");
    run.wait_until("nothing of it is left", || run.members() == [first].into());
}

#[test]
fn it_answers_over_http() {
    let (port, script) = (Port::free(), Script::server());
    let go = script.file("go");
    let text = |word: &str| {
        format!(
            "
def status():
    print({word:?}, flush=True)
    return '204 No Content' if os.path.exists({go:?}) else '503 Service Unavailable'
serve(sys.argv[1], status=status)
"
        )
    };
    script.deploy(&text("first asked"));
    let run = Run::at(port.address, script.at(port.address)).args(["--ready", "http:/healthz"]).spawn();
    run.wait_until("it is asked again", || run.count_log("first asked") >= 3);
    let first = is_first_from(&go, &run);
    script.deploy(&text("second asked"));
    run.hup();
    run.wait_until("it is asked again", || run.count_log("second asked") >= 3);
    is_live_from(&go, &port, &run, first);
}

#[test]
fn it_never_answers_over_http_as_it_should() {
    let text = "serve(sys.argv[1], status=lambda: '503 Service Unavailable')";
    let args = ["--ready", "http:/healthz", "--ready-timeout", "2s"];
    let (_port, _script, run) = spawn(text, &args);
    assert_eq!(run.wait_exit(SOON).code(), Some(69), "{}", run.log());
    let line = run.wait_log("cannot begin: generation 1 did not pass the probe http://", SOON);
    assert!(line.contains("/healthz in 2s") && line.contains("503"), "{line}");
    let (port, script, run) = spawn("serve(sys.argv[1])", &args);
    run.wait_log(" live generation=1 ", SOON);
    let first = run.live();
    script.deploy(text);
    let line = run.reload_fails();
    assert!(line.contains("generation 2 did not pass the probe") && line.contains("503"), "{line}");
    assert_eq!(answered_by(&port), first);
    run.wait_until("nothing of it is left", || run.members() == [first].into());
}

/// The addresses are those on which the program listens when a reload begins.
#[test]
fn where_it_listens_is_found_out() {
    let (one, two) = (Port::free(), Port::free());
    let text = "
listeners = [listen(port) for port in sys.argv[1:]]
signal.signal(signal.SIGTERM, lambda *_: [one.shutdown(socket.SHUT_RDWR) for one in listeners])
threads = [threading.Thread(target=answer, args=(one,)) for one in listeners]
[one.start() for one in threads]
[one.join() for one in threads]
";
    let script = Script::new(text);
    let words = [script.at(one.address), vec![two.address.port().to_string()]].concat();
    let run = Run::new(words).ready();
    for port in [&one, &two] {
        run.wait_until("it serves", || http_get(port.address, "/").is_ok());
    }
    assert_eq!(run.status().addresses, []);
    let first = run.live();
    run.reload_to(2);
    run.wait_reaped(first);
    let mut addresses = run.status().addresses;
    addresses.sort_unstable();
    let mut both = [one.address, two.address];
    both.sort_unstable();
    assert_eq!(addresses, both);
    for port in [&one, &two] {
        assert_eq!(answered_by(port), run.live());
    }
}

/// A program that listens nowhere can be replaced all the same.
#[test]
fn one_that_listens_nowhere() {
    let run = Run::new(["sleep", "600"]).ready();
    let first = run.live();
    run.reload_to(2);
    run.wait_reaped(first);
    assert_eq!(run.members(), [run.live()].into());
}
