//! An outsider that answers again after a long time: the pending operation is then completed, or no longer needed. A
//! late result of an ended rollout changes nothing, and the next reload works.

use std::cell::RefCell;

use super::bench::{Bench, Face, ORPHAN, Outsider, Setup};
use crate::support::run::wait_until;
use crate::support::stall::Stall;

/// The exec of a rollout that was given up completes at last: its process is killed, and is not taken for the next
/// generation of a later rollout.
fn a_late_exec_is_no_generation(face: Face) {
    let bench = Setup::new(face, 2).start();
    bench.stalls(Some(Stall::Exec));
    bench.refuses("could not be started in 10s");
    bench.ends_stalls();
    bench.is_gone(2);
    bench.goes_on(2);
}

#[test]
fn a_late_exec_of_serve() {
    a_late_exec_is_no_generation(Face::Serve);
}

#[test]
fn a_late_exec_of_run() {
    a_late_exec_is_no_generation(Face::Run);
}

#[test]
fn a_late_look_at_processes() {
    let bench = Setup::new(Face::Run, 2).script(ORPHAN).args(&["--ready-timeout", "2s"]).start();
    bench.stalls(Some(Stall::Memory));
    bench.refuses("the live processes cannot be examined: no answer in 2s");
    bench.ends_stalls();
    bench.goes_on(2);
}

#[test]
fn files_that_were_late_are_written() {
    for face in [Face::Serve, Face::Library] {
        let bench = Bench::start(face, 2, &[Outsider::PidFile, Outsider::ControlFolder]);
        bench.reload();
        let live = bench.live();
        wait_until("both disks are met", || {
            ["/disk/", "/run/"].iter().all(|disk| bench.met().iter().any(|path| path.contains(disk)))
        });
        assert_ne!(bench.controlled_by(), Some(live), "by a disk that hangs");
        bench.ends_stalls();
        wait_until("the PID file names it", || {
            std::fs::read_to_string(bench.pid_file()).is_ok_and(|pid| pid.trim() == live.to_string())
        });
        wait_until("the control socket is its own", || bench.controlled_by() == Some(live));
        bench.goes_on(2);
    }
}

#[test]
fn a_manager_that_reads_again_knows_the_main_process() {
    for face in [Face::Serve, Face::Library] {
        let bench = Bench::start(face, 2, &[Outsider::Manager]);
        bench.reload();
        let (live, read) = (bench.live(), RefCell::new(Vec::new()));
        wait_until("MAINPID has come, and READY after that", || {
            let mut read = read.borrow_mut();
            read.extend(bench.notifications());
            let main = read.iter().position(|text| text.contains(&format!("MAINPID={live}")));
            main.is_some_and(|main| read[main..].iter().any(|text| text.contains("READY=1")))
        });
        bench.goes_on(2);
    }
}
