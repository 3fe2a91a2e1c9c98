//! Runs code inside another network namespace.

use std::fs::File;
use std::os::fd::AsFd;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `act` in a new thread, because a namespace belongs to a thread, and the test runner reuses its threads.
pub fn in_fresh_thread<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    match thread::scope(|scope| scope.spawn(act).join()) {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs `act` in a thread in this network namespace. The processes and threads that `act` starts are there too.
pub fn inside<T: Send>(namespace: &File, act: impl FnOnce() -> T + Send) -> T {
    in_fresh_thread(|| {
        let moved = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
        moved.expect("enter a network namespace, as root");
        act()
    })
}
