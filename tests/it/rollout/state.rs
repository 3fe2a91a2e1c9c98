//! The state of the application goes to the next generation whole, or the next generation is ended and says why.

use std::time::Duration;

use crate::support::app::{App, Options, State};
use crate::support::http_get;
use crate::support::load::{Mode, Plan};
use crate::support::process::Instance;

const SOON: Duration = Duration::from_secs(20);
/// The largest state.
const MAX: usize = 64 << 20;

#[track_caller]
fn assert_inherited(server: &Instance, what: &str) {
    let answer = http_get(server.addr(), "/inherited").expect("an answer");
    assert!(answer.ends_with(&format!("\r\n\r\n{what}\n")), "{what}: {answer}");
}

#[test]
fn the_state_goes_from_generation_to_generation() {
    for bytes in [0, 1, MAX] {
        let app = App::new(Options { state: Some(State::Bytes(bytes)), ..Options::default() });
        let server = app.start();
        assert_inherited(&server, "nothing");
        let load = Plan::new([server.addr()], 8, Mode::Close).start();
        for generation in 1..=3 {
            server.reload();
            load.wait_generation(generation + 1, SOON);
            assert_inherited(&server, &format!("version 7 from {generation} bytes {bytes}"));
        }
        load.stop().assert_nothing_lost();
    }
}

#[test]
fn without_a_hook_there_is_no_state() {
    let server = App::new(Options::default()).start();
    server.reload();
    assert_inherited(&server, "nothing");
}

#[test]
fn a_state_that_cannot_be_handed_over_changes_nothing() {
    for (state, why) in [
        (State::Fails, "was not given the state of the application: the table is locked"),
        (State::Panics, "was not given the state of the application: the on_handover hook panicked"),
        (State::Hangs, "the on_handover hook has not returned in 300ms"),
        (State::Bytes(MAX + 1), "it has 67108865 bytes, and at most 67108864 are handed over"),
    ] {
        // A state of 64 MiB is made in time, also on a busy machine.
        let handover_timeout = Duration::from_millis(if state == State::Hangs { 300 } else { 10_000 });
        let app = App::new(Options { state: Some(state), handover_timeout, ..Options::default() });
        let server = app.start();
        let load = Plan::new([server.addr()], 8, Mode::Close).start();
        let blue = server.main_pid();
        // Three times, so that a hook that hangs has used up its threads.
        for _ in 0..3 {
            let mark = server.mark();
            server.hup();
            let line = server.wait_log_after(mark, "reload failed", SOON);
            assert!(line.contains(why) && line.contains("generation 1 serves on"), "{line}");
            assert_eq!(server.main_pid(), blue);
        }
        load.wait_answered(100, SOON);
        load.stop().assert_nothing_lost();
        assert_eq!(server.pids(), [blue]);
    }
}
