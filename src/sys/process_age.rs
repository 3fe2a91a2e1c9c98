//! The age of a process (proc(5)).
#![expect(clippy::disallowed_methods, reason = "procfs answers from the memory of the kernel")]

use std::io;
use std::time::Duration;

use crate::model::identity::Pid;

/// The index of the start among the fields of /proc/PID/stat after the name: field 22 of all. The start is in ticks
/// since the start of the system.
const START: usize = 22 - 3;

/// The age of the process.
///
/// # Errors
/// `ENOENT` if the process is gone.
pub(crate) fn of(pid: Pid) -> io::Result<Duration> {
    let start = started(pid)?;
    let up = std::fs::read_to_string("/proc/uptime")?;
    let age = since_start(start, &up, rustix::param::clock_ticks_per_second());
    age.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/uptime cannot be understood"))
}

/// The start of the process, in clock ticks since the start of the system: of two processes, the older one has the
/// lower number.
///
/// # Errors
/// `ENOENT` if the process is gone.
pub(crate) fn started(pid: Pid) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let cannot = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat cannot be understood"));
    start_of(&stat).ok_or_else(cannot)
}

fn start_of(stat: &str) -> Option<u64> {
    // The name, in brackets, may contain anything, brackets and spaces too.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(START)?.parse().ok()
}

fn since_start(ticks: u64, up: &str, ticks_per_second: u64) -> Option<Duration> {
    let up: f64 = up.split_whitespace().next()?.parse().ok()?;
    #[allow(
        clippy::cast_precision_loss,
        reason = "2^53 ticks are many years, and a second has a hundred ticks or a thousand"
    )]
    let start = ticks as f64 / ticks_per_second as f64;
    Duration::try_from_secs_f64((up - start).max(0.0)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_confuse_it() {
        let stat = format!("12 (a) b (c) S{}250 9 9", " 1".repeat(START - 1) + " ");
        assert_eq!(start_of(&stat), Some(250));
        assert_eq!(since_start(250, "10.50 3.00\n", 100), Some(Duration::from_secs(8)));
    }

    #[test]
    fn this_process_lives_and_pid_zero_does_not() {
        assert!(of(Pid::new(std::process::id())).expect("it lives") < Duration::from_secs(3600));
        assert_eq!(of(Pid::new(0)).expect_err("none").kind(), io::ErrorKind::NotFound);
    }
}
