//! Steering programs: classic BPF that picks, for each new connection, the slot of the listener that gets it.

mod instruction;
mod split;

#[cfg(test)]
mod interpreter;

use std::fmt;

use instruction::{
    ADD_CONSTANT, AND_CONSTANT, JUMP_EQUAL, LOAD_BYTE_ABSOLUTE, LOAD_WORD_ABSOLUTE, MODULO_CONSTANT, RANDOM,
    RETURN_ACCUMULATOR, RETURN_CONSTANT, if_true, plain, return_constant,
};

pub(crate) use instruction::Instruction;
pub(crate) use split::Split;

/// How new connections are moved from one generation to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SteeringMode {
    /// A steering program moves all new connections at once; nothing is lost.
    Steered,
    /// There is no program, but the kernel moves what waits at a closed listener to another listener of the group
    /// (`net.ipv4.tcp_migrate_req`, Linux 5.14); nothing is lost.
    Migrating,
    /// Neither: a retiring listener ignores new handshakes, and their clients try again after a second and reach the
    /// next generation. Where even that is not allowed, the listener is closed in a quiet moment, and connections that
    /// arrive in that moment are lost.
    BestEffort,
}

impl fmt::Display for SteeringMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SteeringMode::Steered => "steered",
            SteeringMode::Migrating => "migrating",
            SteeringMode::BestEffort => "best effort",
        })
    }
}

/// The maximum number of slots of one side in a program. Slots that are not consecutive become a chain of two
/// instructions each. Two such sides, and the instructions that choose the side, stay below BPF_MAXINSNS (4096).
///
/// `net.core.optmem_max` may be the narrower limit (`sk_reuseport_attach_filter` in net/core/filter.c, Linux 6.18). The
/// 128 kB of that version are enough for the maximum. The 20 kB of older kernels are enough for about 840 such slots on
/// both sides together, and attaching more fails with `ENOMEM`.
pub(crate) const SLOTS_MAX: usize = 1000;

/// A program that picks one of several slots for each new connection, evenly and at random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program(Vec<Instruction>);

impl Program {
    /// Picks evenly among `slots`; `None` if there are none, or more than [`SLOTS_MAX`].
    pub(crate) fn one_of(slots: &[u16]) -> Option<Program> {
        let (&first, rest) = slots.split_first()?;
        if slots.len() > SLOTS_MAX {
            return None;
        }
        let count = u32::try_from(slots.len()).ok()?;
        if rest.is_empty() {
            return Some(Program(vec![return_constant(first)]));
        }
        let mut program = vec![plain(LOAD_WORD_ABSOLUTE, RANDOM), plain(MODULO_CONSTANT, count)];
        if slots.windows(2).all(|pair| u32::from(pair[0]) + 1 == u32::from(pair[1])) {
            program.push(plain(ADD_CONSTANT, first.into()));
            program.push(plain(RETURN_ACCUMULATOR, 0));
        } else {
            for (index, &slot) in (0..).zip(slots) {
                program.push(if_true(JUMP_EQUAL, index, 1));
                program.push(return_constant(slot));
            }
            // Not reached, but the kernel's checker wants every path to end in a return.
            program.push(return_constant(first));
        }
        Some(Program(program))
    }

    /// A socket filter (not a steering program) that drops each SYN without ACK, and passes all other packets: a
    /// listener with this filter finishes handshakes and begins none. The filter sees the packet from the TCP header on
    /// (`tcp_filter` in net/ipv4/tcp_ipv4.c, Linux 6.18), and byte 13 of that header is the flags.
    pub(crate) fn ignore_syns() -> Program {
        const FLAGS: u32 = 13;
        const SYN: u32 = 0x02;
        const ACK: u32 = 0x10;
        Program(vec![
            plain(LOAD_BYTE_ABSOLUTE, FLAGS),
            plain(AND_CONSTANT, SYN | ACK),
            if_true(JUMP_EQUAL, SYN, 1),
            return_constant(0),
            plain(RETURN_CONSTANT, u32::MAX),
        ])
    }

    /// The instructions, as the kernel takes them.
    pub(crate) fn instructions(&self) -> &[Instruction] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::interpreter::run;
    use super::*;

    #[test]
    fn every_slot_named_is_picked_and_no_other() {
        for slots in [vec![0], vec![7], vec![0, 1, 2], vec![3, 4, 5], vec![0, 3], vec![5, 1, 4]] {
            let program = Program::one_of(&slots).expect("a few slots");
            let picked: Vec<u32> = (0..slots.len() as u32).map(|random| run(&program, &[], &[random])).collect();
            assert_eq!(picked, slots.iter().map(|&s| u32::from(s)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn nothing_to_pick_is_no_program() {
        assert_eq!(Program::one_of(&[]), None);
        assert_eq!(Program::one_of(&vec![0; SLOTS_MAX + 1]), None);
    }
}
