//! No outsider stalls a server: the service manager, the log, disks, other processes, the application's own hooks. Each
//! outsider hangs for ever: requests are answered, reloads are done, or refused where the outsider is needed, and a
//! stop ends the server in time.

mod bench;
mod needed;
mod recovery;

use bench::{Bench, Face, Outsider};

use crate::support::run::wait_until;

/// CI does fewer reloads for each single outsider; `CUTOVER_LONG=1` does all ten.
fn reloads() -> usize {
    if std::env::var_os("CUTOVER_LONG").is_some() { 10 } else { 2 }
}

const FACES: [Face; 3] = [Face::Serve, Face::Library, Face::Run];

/// A few servers run side by side, because they wait most of the time. More of them would make each system call that
/// the test is asked about (seccomp) take so long that a look at /proc is late without any stall.
fn one_at_a_time(cpus: usize) {
    for outsiders in Outsider::ALL.chunks(2) {
        std::thread::scope(|scope| {
            for face in FACES {
                for outsider in outsiders {
                    scope.spawn(move || Bench::start(face, cpus, &[*outsider]).goes_on(reloads()));
                }
            }
        });
    }
}

fn all_at_once(cpus: usize) {
    std::thread::scope(|scope| {
        for face in FACES {
            scope.spawn(move || Bench::start(face, cpus, &Outsider::ALL).goes_on(10));
        }
    });
}

#[test]
fn one_at_a_time_on_one_cpu() {
    one_at_a_time(1);
}

#[test]
fn one_at_a_time_on_two_cpus() {
    one_at_a_time(2);
}

#[test]
fn all_at_once_on_one_cpu() {
    all_at_once(1);
}

#[test]
fn all_at_once_on_two_cpus() {
    all_at_once(2);
}

/// Negative control: the server really accesses the stalled disks.
#[test]
fn a_disk_that_is_stalled_is_met() {
    let bench = Bench::start(Face::Serve, 2, &[Outsider::PidFile, Outsider::ControlFolder]);
    bench.reload();
    for disk in ["/disk/", "/run/"] {
        wait_until(disk, || bench.met().iter().any(|path| path.contains(disk)));
    }
    let pid = std::fs::read_to_string(bench.pid_file()).expect("the first generation has written it");
    assert_ne!(pid.trim(), bench.live().to_string(), "written on a disk that hangs");
}
