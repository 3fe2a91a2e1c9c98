//! The program that steers one connection, or a share of all connections, to green, and the rest to blue.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::instruction::{
    INSTRUCTIONS_MAX, Instruction, JUMP, JUMP_EQUAL, JUMP_GREATER_OR_EQUAL, LOAD_BYTE_ABSOLUTE, LOAD_HALF_ABSOLUTE,
    LOAD_HALF_INDEXED, LOAD_HEADER_LENGTH, LOAD_WORD_ABSOLUTE, MODULO_CONSTANT, NETWORK_HEADER, RANDOM,
    SHIFT_RIGHT_CONSTANT, if_true, plain, return_constant,
};
use super::{Program, SLOTS_MAX};
use crate::model::share::Share;

/// How connections are divided between green and blue during a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split<'a> {
    /// The source of one connection (address and port of the client's end), which goes to green whatever the share is.
    ///
    /// An IPv4-mapped address means an IPv4 packet. Scope and flow label are ignored.
    pub(crate) source: Option<SocketAddr>,
    /// The part of all other new connections that green gets.
    pub(crate) share: Share,
    /// Green's slots.
    pub(crate) green: &'a [u16],
    /// Blue's slots.
    pub(crate) blue: &'a [u16],
}

impl Program {
    /// Picks the side, and then one of the slots of that side, evenly and at random.
    ///
    /// `None` if a side that can get a connection has no slot, or more than [`SLOTS_MAX`]; any two sides within that
    /// limit fit in one program. Without a source, `green` is ignored for a share of nothing; `blue` is always ignored
    /// for a share of all.
    ///
    /// The source is recognised in IPv4 with and without options, and in IPv6 without extension headers, also where one
    /// `[::]` socket takes both. In IPv6 with extension headers the source is treated as any other source.
    pub(crate) fn split(split: &Split<'_>) -> Option<Program> {
        let Split { source, share, green, blue } = *split;
        if share == Share::ALL {
            return Program::one_of(green);
        }
        let blue = Program::one_of(blue)?;
        if share == Share::NONE && source.is_none() {
            return Some(blue);
        }
        let green = Program::one_of(green)?;
        // The source goes to green. For all other connections the dice decide: blue comes next in the program, then
        // green.
        let dice = dice(share, blue.0.len())?;
        let mut program = match source {
            Some(source) => recognise(source, dice.len() + blue.0.len())?,
            None => Vec::new(),
        };
        program.extend(dice);
        program.extend(blue.0);
        program.extend(green.0);
        debug_assert!(program.len() <= INSTRUCTIONS_MAX, "that is what {SLOTS_MAX} slots a side are for");
        Some(Program(program))
    }
}

impl Program {
    /// Steers the source of one connection to this slot, and all others as `rest` does. `None` if the program is too
    /// long.
    pub(crate) fn aside(source: SocketAddr, slot: u16, rest: &Program) -> Option<Program> {
        let mut program = recognise(source, rest.0.len())?;
        program.extend(&rest.0);
        program.push(return_constant(slot));
        (program.len() <= INSTRUCTIONS_MAX).then_some(Program(program))
    }
}

/// Skips the next `skip` instructions for `share` of all connections.
fn dice(share: Share, skip: usize) -> Option<Vec<Instruction>> {
    if share == Share::NONE {
        return Some(Vec::new());
    }
    Some(vec![
        plain(LOAD_WORD_ABSOLUTE, RANDOM),
        plain(MODULO_CONSTANT, Share::WHOLE.into()),
        // The other connections skip the jump.
        Instruction { code: JUMP_GREATER_OR_EQUAL, jump_true: 1, jump_false: 0, k: share.of_whole().into() },
        plain(JUMP, u32::try_from(skip).ok()?),
    ])
}

/// Skips the next `skip` instructions for a packet from `source`.
fn recognise(source: SocketAddr, skip: usize) -> Option<Vec<Instruction>> {
    let mut program = match source.ip().to_canonical() {
        IpAddr::V4(ip) => recognise_v4(ip, source.port()),
        IpAddr::V6(ip) => recognise_v6(ip, source.port()),
    };
    program.push(plain(JUMP, u32::try_from(skip).ok()?));
    // A packet with one value that is not equal has another source: it skips the rest of this check, and the jump as
    // well.
    for (rest, instruction) in (0..).zip(program.iter_mut().rev()) {
        if instruction.code == JUMP_EQUAL {
            instruction.jump_false = rest;
        }
    }
    Some(program)
}

/// RFC 791, 3.1. The port is compared last, because it stands behind the options.
fn recognise_v4(ip: Ipv4Addr, port: u16) -> Vec<Instruction> {
    const SOURCE: u32 = NETWORK_HEADER + 12;
    [
        is_version(4).as_slice(),
        &[plain(LOAD_WORD_ABSOLUTE, SOURCE), equal(ip.to_bits())],
        &[plain(LOAD_HEADER_LENGTH, NETWORK_HEADER), plain(LOAD_HALF_INDEXED, NETWORK_HEADER), equal(port.into())],
    ]
    .concat()
}

/// RFC 8200, 3. TCP must follow the header directly: behind an extension header, the port has another offset.
fn recognise_v6(ip: Ipv6Addr, port: u16) -> Vec<Instruction> {
    const NEXT_HEADER: u32 = NETWORK_HEADER + 6;
    const TCP: u32 = 6;
    const SOURCE: u32 = NETWORK_HEADER + 8;
    const PAYLOAD: u32 = NETWORK_HEADER + 40;
    let mut program = is_version(6).to_vec();
    program.extend([plain(LOAD_BYTE_ABSOLUTE, NEXT_HEADER), equal(TCP)]);
    for (nth, word) in (0_u32..).zip(ip.octets().chunks_exact(4)) {
        let word = word.iter().fold(0, |word, &byte| word << 8 | u32::from(byte));
        program.extend([plain(LOAD_WORD_ABSOLUTE, SOURCE + 4 * nth), equal(word)]);
    }
    program.extend([plain(LOAD_HALF_ABSOLUTE, PAYLOAD), equal(port.into())]);
    program
}

fn is_version(version: u32) -> [Instruction; 3] {
    [plain(LOAD_BYTE_ABSOLUTE, NETWORK_HEADER), plain(SHIFT_RIGHT_CONSTANT, 4), equal(version)]
}

/// The target for a value that is not equal is filled in when the length of the whole check is known.
fn equal(value: u32) -> Instruction {
    if_true(JUMP_EQUAL, value, 0)
}

#[cfg(test)]
mod tests;
