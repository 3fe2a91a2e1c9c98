//! Runs a verb on a pseudo-terminal, and records the content of the screen.

use super::screen::Screen;
use super::verb::{PATIENCE, Process, Verb};
use rustix::io::{Errno, read, retry_on_intr, write};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// A verb that runs on its own pseudo-terminal, which is its controlling terminal.
pub struct Terminal {
    what: String,
    process: Process,
    master: Arc<OwnedFd>,
    seen: Arc<Seen>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    pictures: Mutex<Pictures>,
    more: Condvar,
}

/// The recorded pictures of the screen, in order.
#[derive(Default)]
struct Pictures {
    all: Vec<Vec<String>>,
    scrolled: usize,
    is_over: bool,
}

/// The exit status of the verb, and the recorded pictures.
#[derive(Debug)]
pub struct Shown {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// The lines of each picture, down to the last one that is not empty.
    pub pictures: Vec<Vec<String>>,
    /// The number of lines that scrolled off the top.
    pub scrolled: usize,
}

impl Shown {
    /// The final picture of the screen.
    pub fn last(&self) -> &[String] {
        self.pictures.last().map_or(&[], Vec::as_slice)
    }

    /// The first line of each picture, without a spinner before it. A line that does not change appears once.
    pub fn first_lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for line in self.pictures.iter().filter_map(|picture| picture.first()) {
            let line = without_spinner(line);
            if lines.last() != Some(&line) {
                lines.push(line);
            }
        }
        lines
    }
}

/// Removes the spinner, which is one character that is neither a letter nor a digit.
pub fn without_spinner(line: &str) -> String {
    let mut characters = line.chars();
    match characters.next() {
        Some(first) if !first.is_alphanumeric() => characters.as_str().trim().to_owned(),
        _ => line.trim().to_owned(),
    }
}

impl Terminal {
    /// Runs the verb on a terminal of this size.
    #[track_caller]
    pub fn run(verb: Verb, columns: u16, rows: u16) -> Terminal {
        let (mut command, what) = verb.into_command();
        let (master, slave) = pair(columns, rows);
        let half = || slave.try_clone().expect("another descriptor");
        command.env("TERM", "xterm").stdin(half()).stdout(half()).stderr(half());
        lead_a_session(&mut command);
        let process = Process::new(command.spawn().unwrap_or_else(|error| panic!("spawn {what}: {error}")));
        // Our descriptors of the slave are closed, so that the terminal ends with the verb.
        drop((command, slave));
        let (master, seen) = (Arc::new(master), Arc::new(Seen::default()));
        let (from, to) = (master.clone(), seen.clone());
        let reader = std::thread::spawn(move || look(&from, &to, Screen::new(columns.into(), rows.into())));
        Terminal { what, process, master, seen, reader: Some(reader) }
    }

    /// Waits for a picture that satisfies the condition.
    #[track_caller]
    pub fn wait(&self, what: &str, is_it: impl Fn(&[String]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut pictures = self.seen.pictures();
        loop {
            if pictures.all.iter().any(|picture| is_it(picture)) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if pictures.is_over || left.is_zero() {
                panic!("{} did not show {what}; at last:\n{:#?}", self.what, pictures.all.last());
            }
            pictures = self.seen.more.wait_timeout(pictures, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a picture with this text in a line.
    #[track_caller]
    pub fn wait_text(&self, text: &str) {
        self.wait(&format!("`{text}`"), |picture| picture.iter().any(|line| line.contains(text)));
    }

    /// Sends these bytes as keyboard input.
    pub fn types(&self, bytes: &[u8]) {
        assert_eq!(retry_on_intr(|| write(&*self.master, bytes)), Ok(bytes.len()));
    }

    /// Waits until the verb has ended.
    #[track_caller]
    pub fn end(mut self) -> Shown {
        let Some(status) = self.process.wait() else {
            panic!("{} did not end; at last:\n{:#?}", self.what, self.seen.pictures().all.last());
        };
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        let mut pictures = self.seen.pictures();
        let (all, scrolled) = (std::mem::take(&mut pictures.all), pictures.scrolled);
        Shown { code: status.code(), signal: status.signal(), pictures: all, scrolled }
    }
}

impl Seen {
    fn pictures(&self) -> MutexGuard<'_, Pictures> {
        self.pictures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both ends of a pseudo-terminal.
fn pair(columns: u16, rows: u16) -> (OwnedFd, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pseudo-terminal");
    grantpt(&master).expect("granted");
    unlockpt(&master).expect("unlocked");
    let path = ptsname(&master, Vec::new()).expect("a name").into_string().expect("ASCII");
    let noctty = i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).expect("a flag of open(2)");
    let slave = OpenOptions::new().read(true).write(true).custom_flags(noctty).open(path).expect("its other end");
    let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&slave, size).expect("a size");
    (master, slave)
}

#[allow(unsafe_code, reason = "the standard library cannot give a child a controlling terminal")]
fn lead_a_session(command: &mut Command) {
    let lead = || {
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(std::io::stdin().as_fd())?;
        Ok(())
    };
    // SAFETY: the closure makes only two system calls, which signal-safety(7) allows.
    unsafe { command.pre_exec(lead) };
}

/// Reads the terminal to its end, and records each picture that differs from the previous one.
fn look(master: &OwnedFd, seen: &Seen, mut screen: Screen) {
    let mut bytes = [0; 4096];
    loop {
        let read = match retry_on_intr(|| read(master, &mut bytes)) {
            Ok(read) => read,
            // EIO means that no process has the other end open any more.
            Err(Errno::IO) => 0,
            Err(errno) => panic!("read a pseudo-terminal: {errno}"),
        };
        screen.take(&bytes[..read]);
        let mut pictures = seen.pictures();
        let picture = screen.lines();
        if pictures.all.last() != Some(&picture) {
            pictures.all.push(picture);
        }
        (pictures.scrolled, pictures.is_over) = (screen.scrolled(), read == 0);
        seen.more.notify_all();
        if read == 0 {
            return;
        }
    }
}
