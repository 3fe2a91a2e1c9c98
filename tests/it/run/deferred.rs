//! A program whose listener has TCP_DEFER_ACCEPT (tcp(7)): for the client the connection is there, and for the kernel its
//! handshake is in flight until the client sends something.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::programs::Port;
use crate::support::run::Run;
use crate::support::script::Script;

const SERVER: &str = "
listener = listen(sys.argv[1])
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
stop_at(listener)
answer(listener)
";
/// Much longer than the first retransmission of a SYN-ACK takes, which comes after a second.
const LINGER: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_client_that_has_said_nothing_is_not_cut_when_the_generation_is_told_to_stop() {
    let (port, script) = (Port::free(), Script::new(SERVER));
    let run = Run::at(port.address, script.at(port.address)).args(["--linger", "3s"]).ready();
    let first = run.live();
    let mut silent = TcpStream::connect(port.address).expect("connected");
    run.reload_to(2);
    run.wait_log(" from=retiring to=draining ", SOON);
    // The silence itself is what is tried.
    std::thread::sleep(LINGER);
    silent.set_read_timeout(Some(SOON)).expect("set");
    silent.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut answer = String::new();
    silent.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains(&format!("pid {first}\n")), "{answer}");
}
