//! What the kernel does with a steering program, for the tests: its checker and its interpreter, as far as we use them.

use super::Program;
use super::instruction::{
    ADD_CONSTANT, AND_CONSTANT, INSTRUCTIONS_MAX, JUMP, JUMP_EQUAL, JUMP_GREATER_OR_EQUAL, LOAD_BYTE_ABSOLUTE,
    LOAD_HALF_ABSOLUTE, LOAD_HALF_INDEXED, LOAD_HEADER_LENGTH, LOAD_WORD_ABSOLUTE, MODULO_CONSTANT, NETWORK_HEADER,
    RANDOM, RETURN_ACCUMULATOR, RETURN_CONSTANT, SHIFT_RIGHT_CONSTANT,
};

/// The result of the program for `packet`, which begins with its IP header; each load of a random word takes the next
/// of `randoms`.
///
/// A load beyond the packet ends the program with 0, as in the kernel.
pub(super) fn run(program: &Program, packet: &[u8], randoms: &[u32]) -> u32 {
    let mut randoms = randoms.iter();
    let (mut accumulator, mut index) = (0_u32, 0_u32);
    let mut at = 0;
    loop {
        let i = program.0[at];
        at += 1;
        let loaded = match i.code {
            LOAD_WORD_ABSOLUTE if i.k == RANDOM => Some(*randoms.next().expect("as many random words as are loaded")),
            LOAD_WORD_ABSOLUTE => load::<4>(packet, i.k),
            LOAD_HALF_ABSOLUTE => load::<2>(packet, i.k),
            LOAD_BYTE_ABSOLUTE => load::<1>(packet, i.k),
            LOAD_HALF_INDEXED => load::<2>(packet, i.k + index),
            LOAD_HEADER_LENGTH => {
                let Some(byte) = load::<1>(packet, i.k) else { return 0 };
                index = 4 * (byte & 0xf);
                continue;
            }
            ADD_CONSTANT => Some(accumulator + i.k),
            AND_CONSTANT => Some(accumulator & i.k),
            SHIFT_RIGHT_CONSTANT => Some(accumulator >> i.k),
            MODULO_CONSTANT => Some(accumulator % i.k),
            JUMP => {
                at += i.k as usize;
                continue;
            }
            JUMP_EQUAL => {
                at += usize::from(if accumulator == i.k { i.jump_true } else { i.jump_false });
                continue;
            }
            JUMP_GREATER_OR_EQUAL => {
                at += usize::from(if accumulator >= i.k { i.jump_true } else { i.jump_false });
                continue;
            }
            RETURN_CONSTANT => return i.k,
            RETURN_ACCUMULATOR => return accumulator,
            other => panic!("an instruction that the kernel would refuse: {other:#x}"),
        };
        match loaded {
            Some(value) => accumulator = value,
            None => return 0,
        }
    }
}

fn load<const BYTES: usize>(packet: &[u8], k: u32) -> Option<u32> {
    let from = k.checked_sub(NETWORK_HEADER).expect("nothing is read but the network header") as usize;
    let bytes = packet.get(from..from + BYTES)?;
    Some(bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte)))
}

/// Requires what `bpf_check_classic` in net/core/filter.c (Linux 6.18) requires: the program is not too long, each jump
/// lands inside of it, and the last instruction is a return.
pub(super) fn check(program: &Program) {
    let count = program.0.len();
    assert!((1..=INSTRUCTIONS_MAX).contains(&count), "{count} instructions");
    for (at, i) in program.0.iter().enumerate() {
        let furthest = match i.code {
            JUMP => i.k as usize,
            JUMP_EQUAL | JUMP_GREATER_OR_EQUAL => i.jump_true.max(i.jump_false).into(),
            RETURN_CONSTANT | RETURN_ACCUMULATOR => continue,
            _ => 0,
        };
        assert!(at + 1 + furthest < count, "{at}: {i:?} leaves the {count} instructions");
    }
    let last = program.0[count - 1].code;
    assert!(matches!(last, RETURN_CONSTANT | RETURN_ACCUMULATOR), "it ends with {last:#x}");
}
