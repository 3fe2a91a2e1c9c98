//! A terminal emulator for the part of ECMA-48 that the program uses. Any other sequence causes a panic.

/// A screen of characters that are one column wide.
pub struct Screen {
    columns: usize,
    cells: Vec<Vec<char>>,
    row: usize,
    /// The column of the cursor. A value past the last column makes the next character the first of the next line.
    column: usize,
    scrolled: usize,
    /// The received bytes of an incomplete character or control sequence.
    pending: Vec<u8>,
}

impl Screen {
    pub fn new(columns: usize, rows: usize) -> Screen {
        let cells = vec![vec![' '; columns]; rows];
        Screen { columns, cells, row: 0, column: 0, scrolled: 0, pending: Vec::new() }
    }

    pub fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.pending.push(*byte);
            if self.is_whole() {
                let whole = std::mem::take(&mut self.pending);
                self.act(&String::from_utf8(whole).expect("UTF-8"));
            }
        }
    }

    /// The lines down to the last one that is not empty, without trailing spaces.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.cells.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned()).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    /// The number of lines that scrolled off the top.
    pub fn scrolled(&self) -> usize {
        self.scrolled
    }

    fn is_whole(&self) -> bool {
        match self.pending[..] {
            [0x1b] | [0x1b, b'['] => false,
            [0x1b, b'[', .., last] => (0x40..=0x7e).contains(&last),
            _ => std::str::from_utf8(&self.pending).is_ok(),
        }
    }

    fn act(&mut self, text: &str) {
        match text {
            "\r" => self.column = 0,
            "\n" => self.down(),
            _ => match text.strip_prefix("\x1b[") {
                Some(sequence) => self.control(sequence),
                None => text.chars().for_each(|character| self.write(character)),
            },
        }
    }

    fn write(&mut self, character: char) {
        assert!(!character.is_control(), "not known: {character:?}");
        if self.column == self.columns {
            self.column = 0;
            self.down();
        }
        self.cells[self.row][self.column] = character;
        self.column += 1;
    }

    fn down(&mut self) {
        if self.row + 1 < self.cells.len() {
            self.row += 1;
        } else {
            self.cells.remove(0);
            self.cells.push(vec![' '; self.columns]);
            self.scrolled += 1;
        }
    }

    fn control(&mut self, sequence: &str) {
        let (numbers, end) = sequence.split_at(sequence.len() - 1);
        let number = numbers.parse::<usize>().ok();
        let by = number.unwrap_or(1).max(1);
        match (end, number.unwrap_or(0)) {
            ("A", _) => self.row = self.row.saturating_sub(by),
            ("B", _) => self.row = (self.row + by).min(self.cells.len() - 1),
            ("C", _) => self.column = (self.column + by).min(self.columns - 1),
            ("D", _) => self.column = self.column.saturating_sub(by),
            ("K", 0) => self.clear_line(self.column.min(self.columns)),
            ("K", 2) => self.clear_line(0),
            ("J", 0) => {
                self.clear_line(self.column.min(self.columns));
                let below = self.row + 1;
                self.cells[below..].iter_mut().for_each(|row| row.fill(' '));
            }
            // The screen ignores colours and weights.
            ("m", _) => {}
            _ => panic!("not known: ESC [ {sequence}"),
        }
    }

    fn clear_line(&mut self, from: usize) {
        self.cells[self.row][from..].fill(' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &str) -> (Vec<String>, usize) {
        let mut screen = Screen::new(5, 3);
        // Byte by byte, because a sequence may arrive in pieces.
        bytes.bytes().for_each(|byte| screen.take(&[byte]));
        (screen.lines(), screen.scrolled())
    }

    #[test]
    fn a_screen_shows_what_a_terminal_would() {
        for (bytes, lines, scrolled) in [
            ("a\r\nb", &["a", "b"][..], 0),
            ("a\nb", &["a", " b"], 0),
            ("abc\rx", &["xbc"], 0),
            ("abcdefg", &["abcde", "fg"], 0),
            ("a\r\nb\r\nc\r\nd", &["b", "c", "d"], 1),
            ("abc\r\x1b[K", &[], 0),
            ("abc\x1b[2D\x1b[K", &["a"], 0),
            ("abc\x1b[2K", &[], 0),
            ("a\r\nb\r\nc\x1b[2A\r\x1b[Jx", &["x"], 0),
            ("é⠁\x1b[1mé\x1b[0m", &["é⠁é"], 0),
        ] {
            assert_eq!(shown(bytes), (lines.iter().map(ToString::to_string).collect(), scrolled), "{bytes:?}");
        }
    }
}
