//! A rollback returns all new connections to the old generation at once, from each step; the next generation finishes
//! the connections that it has.

use std::time::Duration;

use cutover::{Phase, Share};

use crate::support::app::{App, HOUR, Options};
use crate::support::control::{Panel, Watched};
use crate::support::load::{Load, Mode, Plan};
use crate::support::process::Instance;
use crate::support::slow::Slow;

const SOON: Duration = Duration::from_secs(20);
const ON_REQUEST: &[&str] = &["was rolled back on request"];

/// A server whose users must lose no request.
struct Bench {
    app: App,
    server: Instance,
    panel: Panel,
}

/// One load stays on the connections that the kernel assigned at first, the other makes new connections all the time.
struct Users(Vec<Load>);

impl Users {
    #[track_caller]
    fn have_lost_nothing(self) {
        for load in self.0 {
            load.stop().assert_nothing_lost();
        }
    }
}

impl Bench {
    fn begin(options: Options) -> Bench {
        let app = App::new(options);
        let server = app.start();
        let panel = Panel::of(&server);
        Bench { app, server, panel }
    }

    #[track_caller]
    fn users(&self) -> Users {
        let begin = |mode| {
            let pause = Duration::from_millis(2);
            let load = Plan { pause, ..Plan::new([self.server.addr()], 8, mode) }.start();
            load.wait_answered(50, SOON);
            load
        };
        Users([Mode::Close, Mode::KeepAlive].map(begin).into())
    }

    /// Asserts that from now on every connection comes to this generation.
    #[track_caller]
    fn all_come_to(&self, generation: u64) {
        let load = Plan::new([self.server.addr()], 16, Mode::Close).start();
        load.wait_answered(200, SOON);
        let report = load.stop();
        report.assert_nothing_lost();
        assert_eq!(Vec::from_iter(&report.generations), [&generation]);
    }

    /// Waits until this process is the only one.
    #[track_caller]
    fn is_alone(&self, pid: u32) {
        for other in self.server.pids() {
            if other != pid {
                self.server.wait_gone(other, SOON);
            }
        }
        assert_eq!(self.server.pids(), [pid]);
    }

    /// Asserts that the next reload passes all steps.
    #[track_caller]
    fn recovers(&self, next: u32) {
        let mut reload = self.panel.reload();
        if self.app.options.canary.is_empty() {
            reload.reaches_soak();
        } else {
            reload.reaches(Phase::Canary);
            self.panel.promote();
            reload.reaches_soak();
        }
        self.panel.promote();
        assert_eq!(reload.done(), next);
        self.all_come_to(next.into());
    }

    /// Users are on green, with answers that take longer than the rollback: no answer is cut, and green exits by itself
    /// when its answers are finished.
    #[track_caller]
    fn goes_back(&self, reload: Watched<'_>, slow: Vec<Slow>) {
        let (blue, green) = (self.server.first_pid(), self.panel.pid_of(2));
        self.panel.rollback();
        reload.rolled_back_because(ON_REQUEST);
        self.all_come_to(1);
        assert_eq!(self.phase_of(2), Some(Phase::Draining));
        assert_eq!(self.panel.pid_of(2), green);
        self.app.slow_ones_end();
        slow.into_iter().for_each(Slow::finish);
        self.is_alone(blue);
        self.server.wait_log(&format!("gone generation=2 pid={green} connections=0"), SOON);
        assert_eq!(self.phase_of(2), None);
    }

    fn phase_of(&self, generation: u32) -> Option<Phase> {
        let status = self.panel.status();
        status.generations.iter().find(|g| g.generation.number() == generation).map(|g| g.phase)
    }
}

fn all_steps() -> Options {
    Options {
        probe: Some("/healthz".into()),
        canary: vec![(Share::percent(50), HOUR)],
        soak: HOUR,
        ..Options::default()
    }
}

#[test]
fn while_it_starts() {
    let bench = Bench::begin(all_steps());
    let users = bench.users();
    bench.app.next_hangs();
    let mut reload = bench.panel.reload();
    reload.reaches(Phase::Starting);
    bench.server.wait_log(" spawned generation=2 ", SOON);
    bench.panel.rollback();
    reload.rolled_back_because(ON_REQUEST);
    bench.is_alone(bench.server.first_pid());
    bench.app.next_starts();
    bench.recovers(3);
    users.have_lost_nothing();
}

#[test]
fn while_it_is_probed() {
    for does in ["hang", "503"] {
        let bench = Bench::begin(all_steps());
        let users = bench.users();
        bench.app.healthz(does);
        let mut reload = bench.panel.reload();
        reload.reaches(Phase::Probing);
        bench.server.wait_log("asked for /healthz", SOON);
        bench.panel.rollback();
        reload.rolled_back_because(ON_REQUEST);
        bench.is_alone(bench.server.first_pid());
        bench.app.healthz("200");
        bench.recovers(3);
        users.have_lost_nothing();
    }
}

fn in_the_canary(listeners_per_address: usize) {
    let bench = Bench::begin(Options { listeners_per_address, ..all_steps() });
    let users = bench.users();
    let mut reload = bench.panel.reload();
    reload.reaches_canary(50.0);
    let on_both = bench.users();
    let slow = Slow::begin_on(bench.server.addr(), &[1, 2]);
    bench.goes_back(reload, slow);
    bench.recovers(3);
    users.have_lost_nothing();
    on_both.have_lost_nothing();
}

#[test]
fn in_the_canary_with_users_on_green() {
    in_the_canary(1);
}

#[test]
fn in_the_canary_with_three_listeners() {
    in_the_canary(3);
}

fn in_the_soak(listeners_per_address: usize) {
    let canary = Vec::new();
    let bench = Bench::begin(Options { canary, listeners_per_address, ..all_steps() });
    let users = bench.users();
    let mut reload = bench.panel.reload();
    reload.reaches_soak();
    bench.all_come_to(2);
    let on_green = bench.users();
    let slow = Slow::begin_on(bench.server.addr(), &[2]);
    assert_eq!(slow.len(), 1, "all come to green");
    bench.goes_back(reload, slow);
    bench.recovers(3);
    users.have_lost_nothing();
    on_green.have_lost_nothing();
}

#[test]
fn in_the_soak_with_users_on_green() {
    in_the_soak(1);
}

#[test]
fn in_the_soak_with_three_listeners() {
    in_the_soak(3);
}

/// A next reload does not wait for the unfinished answers of earlier generations.
#[test]
fn again_while_the_ones_sent_away_still_finish() {
    let bench = Bench::begin(all_steps());
    let users = bench.users();
    let mut slow = Vec::new();
    for green in [2, 3] {
        let mut reload = bench.panel.reload();
        reload.reaches_canary(50.0);
        slow.extend(Slow::begin_on(bench.server.addr(), &[1, green]));
        bench.panel.rollback();
        reload.rolled_back_because(ON_REQUEST);
    }
    bench.recovers(4);
    let all = bench.server.pids();
    assert_eq!(all.len(), 4, "one that has an answer under way is gone: {}", bench.server.log());
    bench.app.slow_ones_end();
    slow.into_iter().for_each(Slow::finish);
    let live = bench.panel.pid_of(4);
    bench.is_alone(live);
    users.have_lost_nothing();
}

/// Rollouts back and forth without a pause, with short answers only.
#[test]
fn again_and_again() {
    let bench = Bench::begin(Options { probe: None, ..all_steps() });
    let users = bench.users();
    for _ in 0..6 {
        let mut reload = bench.panel.reload();
        reload.reaches_canary(50.0);
        bench.panel.rollback();
        reload.rolled_back();
        let mut reload = bench.panel.reload();
        reload.reaches_canary(50.0);
        bench.panel.promote();
        reload.reaches_soak();
        bench.panel.rollback();
        reload.rolled_back();
    }
    bench.recovers(14);
    let status = bench.panel.status();
    assert_eq!((status.reloads_done, status.reloads_rolled_back), (1, 12));
    users.have_lost_nothing();
    assert!(!bench.server.log_contains("not steered"), "{}", bench.server.log());
}
