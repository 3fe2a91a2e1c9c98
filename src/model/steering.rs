//! Steering programs: classic BPF that picks, for each new connection, the slot of the listener that gets it.

use std::fmt;

/// How new connections are moved from one generation to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Tier {
    /// A steering program moves them all at once; nothing is lost.
    Steered,
    /// There is no program, but the kernel takes what waits at a closed listener to another one of the group
    /// (`net.ipv4.tcp_migrate_req`, Linux 5.14); nothing is lost.
    Migrating,
    /// Neither: a retiring listener ignores new handshakes, whose clients try again after a second and find the next
    /// generation. Where not even that is allowed it is closed in a quiet moment, and what knocks then is lost.
    BestEffort,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Steered => "steered",
            Tier::Migrating => "migrating",
            Tier::BestEffort => "best effort",
        })
    }
}

/// One instruction of classic BPF, laid out as `struct sock_filter` (include/uapi/linux/filter.h, Linux 6.18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) k: u32,
}

// BPF_LD|BPF_W|BPF_ABS and so on, from include/uapi/linux/bpf_common.h and filter.h.
const LOAD_WORD_ABSOLUTE: u16 = 0x20;
const ADD_CONSTANT: u16 = 0x04;
const MODULO_CONSTANT: u16 = 0x94;
const JUMP_EQUAL: u16 = 0x15;
const RETURN_CONSTANT: u16 = 0x06;
const RETURN_ACCUMULATOR: u16 = 0x16;
const LOAD_BYTE_ABSOLUTE: u16 = 0x30;
const AND_CONSTANT: u16 = 0x54;
/// SKF_AD_OFF + SKF_AD_RANDOM: a random word, new for each packet.
const RANDOM: u32 = 0xffff_f000 + 56;

/// The most slots that one program names: a chain of as many jumps stays far below BPF_MAXINSNS (4096).
pub(crate) const SLOTS_MAX: usize = 1024;

/// A program that picks one of some slots for each new connection, evenly and at random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program(Vec<Instruction>);

impl Program {
    /// Picks evenly among `slots`; `None` when there is none to pick, or more than [`SLOTS_MAX`].
    pub(crate) fn one_of(slots: &[u16]) -> Option<Program> {
        let (&first, rest) = slots.split_first()?;
        if slots.len() > SLOTS_MAX {
            return None;
        }
        let count = u32::try_from(slots.len()).ok()?;
        if rest.is_empty() {
            return Some(Program(vec![return_constant(first)]));
        }
        let mut program = vec![
            Instruction { code: LOAD_WORD_ABSOLUTE, jump_true: 0, jump_false: 0, k: RANDOM },
            Instruction { code: MODULO_CONSTANT, jump_true: 0, jump_false: 0, k: count },
        ];
        if slots.windows(2).all(|pair| u32::from(pair[0]) + 1 == u32::from(pair[1])) {
            program.push(Instruction { code: ADD_CONSTANT, jump_true: 0, jump_false: 0, k: first.into() });
            program.push(Instruction { code: RETURN_ACCUMULATOR, jump_true: 0, jump_false: 0, k: 0 });
        } else {
            for (index, &slot) in (0..).zip(slots) {
                program.push(Instruction { code: JUMP_EQUAL, jump_true: 0, jump_false: 1, k: index });
                program.push(return_constant(slot));
            }
            // Not reached, but the kernel's checker wants every path to end in a return.
            program.push(return_constant(first));
        }
        Some(Program(program))
    }

    /// A socket filter (not a steering program) that drops each SYN without ACK, and passes all else: a listener that has it
    /// finishes handshakes and begins none. It sees the packet from the TCP header on (`tcp_filter` in
    /// net/ipv4/tcp_ipv4.c, Linux 6.18), whose byte 13 is the flags.
    pub(crate) fn ignore_syns() -> Program {
        const FLAGS: u32 = 13;
        const SYN: u32 = 0x02;
        const ACK: u32 = 0x10;
        let pass = Instruction { code: RETURN_CONSTANT, jump_true: 0, jump_false: 0, k: u32::MAX };
        Program(vec![
            Instruction { code: LOAD_BYTE_ABSOLUTE, jump_true: 0, jump_false: 0, k: FLAGS },
            Instruction { code: AND_CONSTANT, jump_true: 0, jump_false: 0, k: SYN | ACK },
            Instruction { code: JUMP_EQUAL, jump_true: 0, jump_false: 1, k: SYN },
            return_constant(0),
            pass,
        ])
    }

    /// The instructions, as the kernel takes them.
    pub(crate) fn instructions(&self) -> &[Instruction] {
        &self.0
    }
}

fn return_constant(slot: u16) -> Instruction {
    Instruction { code: RETURN_CONSTANT, jump_true: 0, jump_false: 0, k: slot.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's interpreter does with the few instructions that we use.
    fn run(program: &Program, random: u32) -> u32 {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let i = program.0[at];
            at += 1;
            match i.code {
                LOAD_WORD_ABSOLUTE if i.k == RANDOM => accumulator = random,
                MODULO_CONSTANT => accumulator %= i.k,
                ADD_CONSTANT => accumulator += i.k,
                JUMP_EQUAL => at += usize::from(if accumulator == i.k { i.jump_true } else { i.jump_false }),
                RETURN_CONSTANT => return i.k,
                RETURN_ACCUMULATOR => return accumulator,
                other => panic!("an instruction that the kernel would refuse: {other:#x}"),
            }
        }
    }

    #[test]
    fn every_slot_named_is_picked_and_no_other() {
        for slots in [vec![0], vec![7], vec![0, 1, 2], vec![3, 4, 5], vec![0, 3], vec![5, 1, 4]] {
            let program = Program::one_of(&slots).expect("a few slots");
            let picked: Vec<u32> = (0..slots.len() as u32).map(|random| run(&program, random)).collect();
            assert_eq!(picked, slots.iter().map(|&s| u32::from(s)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn nothing_to_pick_is_no_program() {
        assert_eq!(Program::one_of(&[]), None);
        assert_eq!(Program::one_of(&vec![0; SLOTS_MAX + 1]), None);
    }
}
