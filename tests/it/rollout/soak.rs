//! In the soak all new connections come to the next generation, and the old one can get them back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cutover::Phase;
use rustix::process::Signal;

use crate::support::control::Panel;
use crate::support::http_get;
use crate::support::load::{Mode, Plan};
use crate::support::process::Start;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn it_ends_by_itself_and_the_old_generation_retires() {
    let server = Start::serve().args(["--soak", "500ms"]).ready();
    let panel = Panel::of(&server);
    let load = Plan::new([server.addr()], 16, Mode::KeepAlive).start();
    load.wait_answered(100, SOON);
    let began = Instant::now();
    let mut reload = panel.reload();
    reload.reaches_soak();
    assert_eq!(server.main_pid(), server.first_pid());
    assert_eq!(reload.done(), 2);
    assert!(began.elapsed() >= Duration::from_millis(500), "it was over after {:?}", began.elapsed());
    load.wait_generation(2, SOON);
    load.stop().assert_nothing_lost();
    server.wait_gone(server.first_pid(), SOON);
}

#[test]
fn promotion_ends_it() {
    for listeners in ["1", "3"] {
        let server = Start::serve().args(["--soak", "1h", "--listeners-per-address", listeners]).ready();
        let panel = Panel::of(&server);
        let load = Plan::new([server.addr()], 16, Mode::Close).start();
        load.wait_answered(100, SOON);
        for generation in 2..=4 {
            let blue = server.main_pid();
            let mut reload = panel.reload();
            reload.reaches_soak();
            load.wait_generation(generation.into(), SOON);
            let status = panel.status();
            let rollout = status.rollout.expect("a rollout");
            assert_eq!((rollout.phase, rollout.share), (Phase::Soaking, cutover::Share::ALL));
            panel.promote();
            assert_eq!(reload.done(), generation);
            server.wait_gone(blue, SOON);
        }
        load.stop().assert_nothing_lost();
        assert!(!server.log_contains("not steered"), "{}", server.log());
    }
}

/// Requests one after another, each on a connection of its own, as fast as one client can.
struct Tries {
    stop: Arc<AtomicBool>,
    made: JoinHandle<Vec<Try>>,
}

#[derive(Debug)]
struct Try {
    began: Instant,
    ended: Instant,
    /// The answer, if there was one.
    answer: Option<String>,
}

impl Tries {
    fn begin(address: SocketAddr) -> Tries {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let made = std::thread::spawn(move || {
            let mut all = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                let answer = http_get(address, "/").ok().filter(|answer| answer.contains("generation "));
                all.push(Try { began, ended: Instant::now(), answer });
            }
            all
        });
        Tries { stop, made }
    }

    fn end(self) -> Vec<Try> {
        self.stop.store(true, Ordering::Relaxed);
        self.made.join().expect("it does not panic")
    }
}

fn longest_gap(tries: &[&Try]) -> Duration {
    tries.windows(2).map(|two| two[1].ended - two[0].ended).max().unwrap_or_default()
}

/// Green is killed in the soak, under constant requests: how long is the time without service?
#[test]
fn the_time_without_service_when_green_is_killed() {
    let server = Start::serve().args(["--soak", "1h"]).ready();
    let panel = Panel::of(&server);
    let mut reload = panel.reload();
    reload.reaches_soak();
    let green = panel.pid_of(2);
    // Other clients have connections open, which the kernel has to close.
    let pause = Duration::from_millis(20);
    let others = Plan { pause, ..Plan::new([server.addr()], 32, Mode::KeepAlive) }.start();
    others.wait_answered(100, SOON);
    let tries = Tries::begin(server.addr());
    others.wait_answered(200, SOON);
    let killed = Instant::now();
    server.signal(green, Signal::KILL);
    server.wait_gone(green, SOON);
    let gone = Instant::now();
    reload.rolled_back_because(&["was killed by SIGKILL (9) in the soak"]);
    others.wait_answered(500, SOON);
    let (tries, others) = (tries.end(), others.stop());
    others.assert_nothing_lost_after(gone);
    let good: Vec<&Try> = tries.iter().filter(|one| one.answer.is_some()).collect();
    let before: Vec<&Try> = good.iter().copied().filter(|one| one.ended < killed).collect();
    println!(
        "green was gone {:?} after the kill; the longest time between two answers was {:?} ({:?} before the kill); \
         {} of {} connections failed",
        gone - killed,
        longest_gap(&good),
        longest_gap(&before),
        tries.len() - good.len(),
        tries.len(),
    );
    // The first connection after the death is answered, and by blue.
    let next = tries.iter().find(|one| one.began > gone).expect("one that began after the death");
    assert!(next.answer.as_ref().is_some_and(|answer| answer.contains("generation 1\n")), "{next:?}");
    assert!(tries.iter().filter(|one| one.began > gone).all(|one| one.answer.is_some()));
    assert!(longest_gap(&good) < Duration::from_secs(2), "{:?}", longest_gap(&good));
}
