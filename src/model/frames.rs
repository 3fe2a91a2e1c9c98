//! Where the frames of an HTTP/2 connection begin (RFC 9113, 4.1), and the records of TLS (RFC 8446, 5.1).

/// The length of what a client sends before its first frame (RFC 9113, 3.4), in bytes.
const PREFACE: usize = 24;

/// The position within the frames of one direction of a connection, each of which has a header of this many bytes.
#[derive(Debug)]
pub(crate) struct Frames<const HEADER: usize> {
    /// The length of the payload, by the header.
    length: fn(&[u8; HEADER]) -> usize,
    /// The first bytes of a header, as far as they have come.
    header: [u8; HEADER],
    /// How many bytes of the header have come.
    have: usize,
    /// How many bytes are left until the next header begins, if no header is begun.
    left: usize,
}

/// The frames of an HTTP/2 connection.
pub(crate) type Http2Frames = Frames<9>;

/// The records of a TLS connection.
#[cfg(feature = "tls")]
pub(crate) type TlsRecords = Frames<5>;

impl Http2Frames {
    /// Before the preface of a client.
    pub(crate) fn of_client() -> Http2Frames {
        let length =
            |header: &[u8; 9]| (usize::from(header[0]) << 16) | (usize::from(header[1]) << 8) | usize::from(header[2]);
        Frames { length, header: [0; 9], have: 0, left: PREFACE }
    }
}

#[cfg(feature = "tls")]
impl TlsRecords {
    /// Before the first record.
    pub(crate) fn new() -> TlsRecords {
        let length = |header: &[u8; 5]| (usize::from(header[3]) << 8) | usize::from(header[4]);
        Frames { length, header: [0; 5], have: 0, left: 0 }
    }
}

impl<const HEADER: usize> Frames<HEADER> {
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
            (self.have, self.left) = (0, (self.length)(&self.header));
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
                sent.extend(std::iter::repeat_n(0xff, 9 - 3 + length));
                beginnings.push(sent.len());
            }
            let (mut frames, mut at, mut found) = (Http2Frames::of_client(), 0, Vec::new());
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

    #[cfg(feature = "tls")]
    #[test]
    fn a_record_that_has_come_in_part_is_seen() {
        let record = [&[23, 3, 3, 1, 2], &[0xff; 258][..]].concat();
        for cut in 1..record.len() {
            let mut records = TlsRecords::new();
            records.follow(&record);
            assert!(records.is_between());
            records.follow(&record[..cut]);
            assert!(!records.is_between(), "after {cut} bytes");
            records.follow(&record[cut..]);
            assert!(records.is_between());
        }
    }
}
