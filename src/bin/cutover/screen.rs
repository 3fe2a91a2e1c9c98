//! A text on a terminal that is redrawn in its place.

use std::fmt::Write as _;

use rustix::termios::{Winsize, tcgetwinsize};

/// The text drawn before, which the next one is drawn over.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    lines: usize,
}

impl Screen {
    /// The output that replaces the previous text with this one in a single write. Nothing flickers and nothing
    /// scrolls, because the shown text is overwritten without being cleared before.
    pub(crate) fn frame(&mut self, text: &str) -> String {
        self.frame_in(text, size())
    }

    fn frame_in(&mut self, text: &str, (width, height): (usize, usize)) -> String {
        let mut frame = String::new();
        if self.lines > 0 {
            // Writing to a String does not fail.
            let _ = write!(frame, "\x1b[{}A\r", self.lines);
        }
        // The cursor needs a line of its own below, and a line that is as wide as the terminal may wrap.
        let lines: Vec<&str> = text.lines().take(height.saturating_sub(1)).collect();
        for line in &lines {
            let shown: String = line.chars().take(width.saturating_sub(1)).collect();
            let _ = writeln!(frame, "{shown}\x1b[K");
        }
        frame += "\x1b[J";
        self.lines = lines.len();
        frame
    }
}

/// The columns and rows of the terminal that is stdout; `usize::MAX` if their number is not known.
pub(crate) fn size() -> (usize, usize) {
    let known = |cells: u16| if cells == 0 { usize::MAX } else { cells.into() };
    match tcgetwinsize(std::io::stdout()) {
        Ok(Winsize { ws_col, ws_row, .. }) => (known(ws_col), known(ws_row)),
        Err(_) => (usize::MAX, usize::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_frame_is_drawn_over_the_one_before() {
        let mut screen = Screen::default();
        assert_eq!(screen.frame_in("a\nb\nc\n", (80, 24)), "a\x1b[K\nb\x1b[K\nc\x1b[K\n\x1b[J");
        assert_eq!(screen.frame_in("x\n", (80, 24)), "\x1b[3A\rx\x1b[K\n\x1b[J");
        assert_eq!(screen.frame_in("y\n", (80, 24)), "\x1b[1A\ry\x1b[K\n\x1b[J");
    }

    #[test]
    fn nothing_is_drawn_outside_of_the_terminal() {
        let mut screen = Screen::default();
        assert_eq!(screen.frame_in("abcdef\nb\nc\n", (4, 3)), "abc\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(screen.frame_in("a\n", (4, 3)), "\x1b[2A\ra\x1b[K\n\x1b[J");
    }
}
