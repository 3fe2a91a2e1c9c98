//! A writer for logs that never blocks the thread that logs.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many lines wait for a log that is not read. With some hundred bytes for each line, this is less than a megabyte.
const LINES: usize = 2048;

/// Writes log lines from a thread of its own, so that a log that is not read (a stuck collector at the other end of
/// stderr) stops neither the server nor a reload.
///
/// At most 2,048 lines wait. Further lines are dropped and counted, and the count is written when the log is read
/// again. Lines that still wait when the process ends are lost: see [`flush_within`](LogWriter::flush_within).
///
/// Each call of [`write`](Write::write) is one line, as in `tracing_subscriber::fmt`. Clones share one queue and one
/// thread.
///
/// ```no_run
/// # fn example() -> std::io::Result<()> {
/// let log = cutover::LogWriter::stderr()?;
/// let writer = log.clone();
/// tracing_subscriber::fmt().with_writer(move || writer.clone()).init();
/// // The server runs.
/// log.flush_within(std::time::Duration::from_secs(1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct LogWriter(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    waiting: VecDeque<Vec<u8>>,
    dropped: u64,
    /// Whether a line, or the count, is being written.
    writing: bool,
}

impl LogWriter {
    /// A writer to stderr.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn stderr() -> io::Result<LogWriter> {
        LogWriter::to(io::stderr())
    }

    /// A writer to `out`, which may block.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn to(out: impl Write + Send + 'static) -> io::Result<LogWriter> {
        let queue = Arc::new(Queue::default());
        let writer = LogWriter(queue.clone());
        // The thread ends with the process.
        std::thread::Builder::new().name("cutover-log".into()).spawn(move || queue.write_all(out))?;
        Ok(writer)
    }

    /// Waits until all lines are written, for `limit` at most. To be called before the process ends. Blocks the thread.
    pub fn flush_within(&self, limit: Duration) {
        let by = Instant::now() + limit;
        let mut lines = self.0.lines();
        while lines.writing || !lines.waiting.is_empty() || lines.dropped > 0 {
            let left = by.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            lines = self.0.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut lines = self.0.lines();
        if lines.waiting.len() < LINES && lines.dropped == 0 {
            lines.waiting.push_back(line.to_vec());
        } else {
            // Also dropped when there is room again but the count was not written yet, so that the count is written
            // where lines are missing.
            lines.dropped += 1;
        }
        self.0.changed.notify_all();
        Ok(line.len())
    }

    /// Does nothing, because the thread that logs must not wait.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next line to write, or the count of dropped lines.
    fn next(&self) -> Vec<u8> {
        let mut lines = self.lines();
        loop {
            lines.writing = true;
            if let Some(line) = lines.waiting.pop_front() {
                return line;
            }
            if lines.dropped > 0 {
                let dropped = std::mem::take(&mut lines.dropped);
                return format!("{dropped} log lines were dropped, because nobody read the log\n").into_bytes();
            }
            lines.writing = false;
            self.changed.notify_all();
            lines = self.changed.wait(lines).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write_all(&self, mut out: impl Write) {
        loop {
            let line = self.next();
            // An error means that the other end is closed, so there is no place to report it.
            let _ = out.write_all(&line).and_then(|()| out.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, PipeReader, pipe};

    use super::*;

    fn writer() -> (BufReader<PipeReader>, LogWriter) {
        let (read, write) = pipe().expect("a pipe");
        (BufReader::new(read), LogWriter::to(write).expect("a thread"))
    }

    #[test]
    fn lines_are_written_in_order_and_waited_for() {
        let (mut read, mut log) = writer();
        for number in 0..3 {
            writeln!(log, "line {number}").expect("taken");
        }
        log.flush_within(Duration::from_secs(10));
        let mut text = String::new();
        for _ in 0..3 {
            read.read_line(&mut text).expect("written");
        }
        assert_eq!(text, "line 0\nline 1\nline 2\n");
    }

    #[test]
    fn what_nobody_reads_is_dropped_and_counted_where_it_is_missing() {
        let (read, mut log) = writer();
        // The pipe holds 64 kB (pipe(7)), and the queue holds `LINES` lines.
        let (line, written) = ("x".repeat(200), LINES * 2);
        for number in 0..written {
            log.write_all(format!("{number} {line}\n").as_bytes()).expect("it does not block");
        }
        log.flush_within(Duration::from_millis(50));
        let (mut seen, mut dropped) = (0, 0);
        for told in read.lines() {
            let told = told.expect("text");
            match told.strip_suffix(" log lines were dropped, because nobody read the log") {
                Some(count) => {
                    dropped = count.parse().expect("a number");
                    break;
                }
                None => {
                    assert_eq!(told, format!("{seen} {line}"));
                    seen += 1;
                }
            }
        }
        assert!(seen >= LINES && dropped > 0, "{seen} seen, {dropped} dropped");
        assert_eq!(seen + dropped, written);
    }
}
