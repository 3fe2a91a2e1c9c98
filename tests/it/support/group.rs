//! The processes of a process group: finding the living ones, and waiting for the end of one.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Pid;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The living processes of the group, from /proc, because no system call lists a process group.
pub fn living(group: Pid) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("read /proc");
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut pids: Vec<u32> = numbers.filter(|pid| lives_in(*pid, group) == Some(true)).collect();
    pids.sort_unstable();
    pids
}

/// Whether a process lives in the group. `None` if the process has ended meanwhile. proc_pid_stat(5): after the name in
/// parentheses come state, parent, group, and as the 18th field the number of threads. A first thread that has ended is
/// a zombie while other threads are still ending. The sockets are open until the last thread has ended.
fn lives_in(pid: u32, group: Pid) -> Option<bool> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let dead = matches!(*fields.first()?, "Z" | "X") && fields.get(17)?.parse::<u32>().ok()? <= 1;
    let of_group = fields.get(2)?.parse() == Ok(number_of(group));
    Some(of_group && !dead)
}

/// Waits for the end of a process. The pidfd is readable from then on, even before the process is reaped
/// (pidfd_open(2)).
pub fn has_ended(process: &OwnedFd, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("a deadline of less than an age");
        let mut ends = [PollFd::new(process, PollFlags::IN)];
        match poll(&mut ends, Some(&left)) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            Err(errno) => panic!("poll a pidfd: {errno}"),
        }
    }
}

pub fn pid_of(number: u32) -> Pid {
    let number = i32::try_from(number).ok();
    number.and_then(Pid::from_raw).expect("a pid is above 0 and fits an i32")
}

pub fn number_of(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

/// Whether every thread of the process is stopped by a signal (proc_pid_stat(5)).
pub fn is_frozen(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    let stats = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let mut states = stats.map(|stat| stat.rsplit_once(')').map(|(_, rest)| rest.trim_start().starts_with('T')));
    states.all(|stopped| stopped == Some(true))
}
