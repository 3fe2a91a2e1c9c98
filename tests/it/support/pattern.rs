//! Bytes by which each place of a long body can be checked: every eight bytes are the number of the eight.

use bytes::Bytes;

/// The length of a piece, in bytes: a multiple of eight.
pub const PIECE: u64 = 64 * 1024;

/// The piece that begins at this offset, a multiple of eight.
pub fn piece(offset: u64, length: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(usize::try_from(length).expect("short") + 8);
    let mut word = offset / 8;
    while (bytes.len() as u64) < length {
        bytes.extend_from_slice(&word.to_le_bytes());
        word += 1;
    }
    bytes.truncate(usize::try_from(length).expect("short"));
    bytes.into()
}

/// Checks a body piece by piece.
#[derive(Default)]
pub struct Check {
    /// How many bytes have come.
    pub length: u64,
    /// The offset of the first wrong byte.
    pub wrong: Option<u64>,
}

impl Check {
    pub fn take(&mut self, bytes: &[u8]) {
        let (begin, skipped) = (self.length / 8 * 8, self.length % 8);
        let expected = piece(begin, skipped + bytes.len() as u64);
        let expected = &expected[usize::try_from(skipped).expect("short")..];
        if self.wrong.is_none()
            && let Some(at) = bytes.iter().zip(expected).position(|(a, b)| a != b)
        {
            self.wrong = Some(self.length + at as u64);
        }
        self.length += bytes.len() as u64;
    }
}
