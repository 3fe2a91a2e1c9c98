//! Other listeners on the program's port: a stranger is named, and the program's own processes are not.

use std::time::Duration;

use crate::support::join_group;
use crate::support::programs::Port;
use crate::support::run::Run;

const SOON: Duration = Duration::from_secs(30);
const NAMED: &str = " has joined the group ";

/// The check also works before the first reload; a reload looks up the sockets for other reasons anyway.
#[test]
fn only_a_stranger_is_named() {
    let port = Port::free();
    let address = port.address.to_string();
    let run = Run::at(port.address, [env!("CARGO_BIN_EXE_cutover"), "serve", "--listen", &address]).ready();
    let stranger = join_group(port.address);
    let line = run.wait_log(NAMED, SOON);
    assert!(line.contains(&format!("(pid {},", std::process::id())), "{line}");

    drop(stranger);
    let mark = run.mark();
    run.reload_to(2);
    let _another = join_group(port.address);
    let line = run.wait_log_after(mark, NAMED, SOON);
    assert!(line.contains(&format!("(pid {},", std::process::id())), "{line}");
    assert_eq!(run.log().matches(NAMED).count(), 2, "{}", run.log());
}
