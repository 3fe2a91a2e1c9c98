//! The record of the delay line: one line of text for each TCP packet, as a packet sniffer at both ends shows it.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    FromServer,
    FromClient,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Carried,
    Lost,
}

/// A TCP packet, as it entered the line.
struct Entry {
    at: Duration,
    way: Way,
    fate: Fate,
    client_port: u16,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    payload: usize,
}

pub struct Trace {
    begun: Instant,
    entries: Vec<Entry>,
    carried: usize,
    dropped: usize,
}

impl Trace {
    pub fn begin() -> Trace {
        Trace { begun: Instant::now(), entries: Vec::new(), carried: 0, dropped: 0 }
    }

    pub fn note(&mut self, way: Way, fate: Fate, packet: &[u8]) {
        match fate {
            Fate::Carried => self.carried += 1,
            Fate::Lost => self.dropped += 1,
        }
        let at = self.begun.elapsed();
        self.entries.extend(Entry::read(at, way, fate, packet));
    }

    pub fn carried_and_dropped(&self) -> (usize, usize) {
        (self.carried, self.dropped)
    }

    pub fn of(&self, client_port: u16) -> String {
        let mut text = String::new();
        for entry in self.entries.iter().filter(|entry| entry.client_port == client_port) {
            entry.write(&mut text);
        }
        text
    }
}

impl Entry {
    /// Parses a packet. `None` if the packet is not TCP over IPv4 (RFC 791, RFC 9293).
    fn read(at: Duration, way: Way, fate: Fate, packet: &[u8]) -> Option<Entry> {
        let (&first, &protocol) = (packet.first()?, packet.get(9)?);
        if first >> 4 != 4 || i32::from(protocol) != libc::IPPROTO_TCP {
            return None;
        }
        let tcp = packet.get(usize::from(first & 15) * 4..)?;
        let short = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
        let long = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
        Some(Entry {
            at,
            way,
            fate,
            client_port: short(if way == Way::FromClient { 0 } else { 2 })?,
            sequence: long(4)?,
            acknowledged: long(8)?,
            flags: *tcp.get(13)?,
            payload: tcp.len().saturating_sub(usize::from(tcp.get(12)? >> 4) * 4),
        })
    }

    fn write(&self, text: &mut String) {
        let way = match self.way {
            Way::FromServer => "server",
            Way::FromClient => "client",
        };
        let fate = match self.fate {
            Fate::Carried => "",
            Fate::Lost => " LOST",
        };
        let names = ["FIN", "SYN", "RST", "PSH", "ACK"];
        let flags: Vec<&str> =
            (0..names.len()).filter(|bit| self.flags >> bit & 1 == 1).map(|bit| names[bit]).collect();
        let Entry { sequence, acknowledged, payload, .. } = self;
        let _ = writeln!(
            text,
            "    {:>9.3} ms {way} {:<11} seq {sequence} ack {acknowledged} length {payload}{fate}",
            self.at.as_secs_f64() * 1000.0,
            flags.join("+"),
        );
    }
}
