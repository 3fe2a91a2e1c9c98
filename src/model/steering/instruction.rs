//! Instructions of classic BPF, as far as steering needs them.

/// One instruction of classic BPF, laid out as `struct sock_filter` (include/uapi/linux/filter.h, Linux 6.18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) k: u32,
}

// BPF_LD|BPF_W|BPF_ABS and so on, from include/uapi/linux/bpf_common.h and filter.h.
pub(super) const LOAD_WORD_ABSOLUTE: u16 = 0x20;
pub(super) const LOAD_HALF_ABSOLUTE: u16 = 0x28;
pub(super) const LOAD_BYTE_ABSOLUTE: u16 = 0x30;
pub(super) const LOAD_HALF_INDEXED: u16 = 0x48;
/// BPF_LDX|BPF_B|BPF_MSH: loads four times the low nibble of a byte into X, which is the length of an IPv4 header.
pub(super) const LOAD_HEADER_LENGTH: u16 = 0xb1;
pub(super) const ADD_CONSTANT: u16 = 0x04;
pub(super) const AND_CONSTANT: u16 = 0x54;
pub(super) const SHIFT_RIGHT_CONSTANT: u16 = 0x74;
pub(super) const MODULO_CONSTANT: u16 = 0x94;
/// BPF_JMP|BPF_JA: the only jump that is wider than 8 bits.
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
pub(super) const RETURN_CONSTANT: u16 = 0x06;
pub(super) const RETURN_ACCUMULATOR: u16 = 0x16;

/// SKF_AD_OFF + SKF_AD_RANDOM: a random word, new at each load.
pub(super) const RANDOM: u32 = 0xffff_f000 + 56;
/// SKF_NET_OFF: a load at this offset reads from the IP header on; without this offset, a steering program reads what
/// follows the TCP header (`run_bpf_filter` in net/core/sock_reuseport.c, Linux 6.18).
pub(super) const NETWORK_HEADER: u32 = 0xfff0_0000;

/// BPF_MAXINSNS: the kernel refuses a longer program.
pub(super) const INSTRUCTIONS_MAX: usize = 4096;

/// An instruction that never jumps, or always jumps.
pub(super) const fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, k }
}

/// Goes on with the next instruction if the comparison is true, and skips `skip` instructions if it is false.
pub(super) const fn if_true(code: u16, k: u32, skip: u8) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: skip, k }
}

pub(super) fn return_constant(slot: u16) -> Instruction {
    plain(RETURN_CONSTANT, slot.into())
}
