//! Acts inside another network namespace.

use std::fs::File;
use std::os::fd::AsFd;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A thread of its own, because the namespace belongs to the thread, and those of the tests are used again.
pub fn in_fresh_thread<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    match thread::scope(|scope| scope.spawn(act).join()) {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// In a thread in this network namespace: what it spawns is there too, processes and threads.
pub fn inside<T: Send>(namespace: &File, act: impl FnOnce() -> T + Send) -> T {
    in_fresh_thread(|| {
        let moved = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
        moved.expect("enter a network namespace, as root");
        act()
    })
}
