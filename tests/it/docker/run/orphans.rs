//! Process 1 reaps all orphans, and its memory use stays small.

use super::{SOON, reload_to, run_serve};
use crate::support::docker::{Container, Engine, Process};

const ORPHANS: usize = 1000;
/// The orphans live until the program gets SIGUSR1.
const PROGRAM: &str = "
    pipe my $wait, my $go or die;
    $SIG{USR1} = sub { close $go };
    for (1 .. 1000) {
        my $child = fork // die;
        if ($child) { waitpid $child, 0; next }
        exit if fork // die;
        close $go;
        sysread $wait, my $byte, 1;
        exit;
    }
    $| = 1;
    print qq(begun\\n);
    sleep while 1;
";
/// Upper limit for the resident memory, in bytes.
const SMALL: u64 = 10 << 20;

fn kilobytes(container: &Container) -> u64 {
    container.resident_bytes() / 1024
}

#[test]
fn a_thousand_orphans_leave_no_zombie() {
    let Some(engine) = Engine::running() else { return };
    let Some(image) = engine.perl() else { return };
    let container = engine.run(&[], image, &["run", "--", "perl", "-e", PROGRAM]);
    container.wait_log("begun", SOON);
    let adopted = |process: &Process| process.name == "perl" && process.parent == 1 && process.state != 'Z';
    engine.wait("all adopted", SOON, || {
        let processes = container.processes();
        processes.len() == ORPHANS + 2 && processes.iter().skip(1).all(adopted)
    });
    let before = kilobytes(&container);

    // The supervisor forwards the signal to the program.
    container.kill("USR1");
    engine.wait("no orphan and no zombie", SOON, || container.processes().len() == 2);
    let processes = container.processes();
    let names: Vec<_> = processes.iter().map(|process| (process.pid, process.name.as_str())).collect();
    assert_eq!(names, [(1, "cutover"), (processes[1].pid, "perl")]);
    println!("{ORPHANS} orphans: process 1 has {before} kB with them, {} kB without", kilobytes(&container));
    assert!(container.resident_bytes() < SMALL, "{} bytes", container.resident_bytes());
    container.kill("TERM");
    assert_eq!(container.wait(SOON), 143, "{}", container.logs());
}

#[test]
fn it_stays_small() {
    let Some(engine) = Engine::running() else { return };
    let Some(container) = run_serve(engine, &[], &[]) else { return };
    let before = kilobytes(&container);
    for generation in 2..=21 {
        reload_to(&container, generation);
    }
    engine.wait("one generation", SOON, || container.processes().len() == 2);
    println!("process 1 has {before} kB before, and {} kB after 20 reloads", kilobytes(&container));
    assert!(container.resident_bytes() < SMALL, "{} bytes", container.resident_bytes());
    assert_eq!(container.zombies(), []);
}
