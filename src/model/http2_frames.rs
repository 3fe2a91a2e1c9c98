//! Where the frames of an HTTP/2 connection begin (RFC 9113, 4.1).

/// The length of the header of a frame, in bytes.
const HEADER: usize = 9;
/// The length of what a client sends before its first frame (RFC 9113, 3.4), in bytes.
const PREFACE: usize = 24;

/// The position within the frames of one direction of a connection.
#[derive(Debug)]
pub(crate) struct Frames {
    /// The first bytes of a header, as far as they have come. Its first three bytes are the length of the payload.
    header: [u8; HEADER],
    /// How many bytes of the header have come.
    have: usize,
    /// How many bytes are left until the next header begins, if no header is begun.
    left: usize,
}

impl Frames {
    /// Before the preface of a client.
    pub(crate) fn of_client() -> Frames {
        Frames { header: [0; HEADER], have: 0, left: PREFACE }
    }

    /// Whether a frame begins here.
    pub(crate) fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Follows these bytes, which come next.
    pub(crate) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = self.step(bytes);
            bytes = &bytes[count..];
        }
    }

    /// How many of these bytes come before the next beginning of a frame; all of them if none begins there. If a frame
    /// begins here, the one after it is meant.
    pub(crate) fn to_next_boundary(&self, bytes: &[u8]) -> usize {
        let mut ahead = Frames { ..*self };
        let mut count = 0;
        while count < bytes.len() {
            count += ahead.step(&bytes[count..]);
            if ahead.is_between() {
                break;
            }
        }
        count
    }

    /// Follows bytes to the end of a header or of a payload, and returns their number: at least one.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let count = self.left.min(bytes.len());
            self.left -= count;
            return count;
        }
        let count = (HEADER - self.have).min(bytes.len());
        self.header[self.have..self.have + count].copy_from_slice(&bytes[..count]);
        self.have += count;
        if self.have == HEADER {
            let [a, b, c, ..] = self.header.map(usize::from);
            (self.have, self.left) = (0, (a << 16) | (b << 8) | c);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_frame_is_found_in_any_pieces(
            lengths in prop::collection::vec(0_usize..70_000, 1..5),
            cuts in prop::collection::vec(1_usize..100_000, 1..8),
        ) {
            let mut sent = vec![b'x'; PREFACE];
            let mut beginnings = vec![PREFACE];
            for length in lengths {
                sent.extend_from_slice(&u32::try_from(length).expect("short").to_be_bytes()[1..]);
                sent.extend(std::iter::repeat_n(0xff, HEADER - 3 + length));
                beginnings.push(sent.len());
            }
            let (mut frames, mut at, mut found) = (Frames::of_client(), 0, Vec::new());
            let mut cuts = cuts.into_iter().cycle();
            while at < sent.len() {
                let end = (at + cuts.next().expect("endless")).min(sent.len());
                let count = frames.to_next_boundary(&sent[at..end]);
                frames.follow(&sent[at..at + count]);
                at += count;
                if frames.is_between() {
                    found.push(at);
                }
            }
            prop_assert_eq!(found, beginnings);
        }
    }
}
