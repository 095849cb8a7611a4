//! A classic BPF program, put together block by block.

use seccompiler::{BpfProgram, sock_filter};

// Offsets in `struct seccomp_data` (include/uapi/linux/seccomp.h); arguments are little-endian on both architectures.
pub(super) const OFFSET_NUMBER: u32 = 0;
pub(super) const OFFSET_ARCHITECTURE: u32 = 4;
pub(super) const OFFSET_ARGUMENTS: u32 = 16;

pub(super) const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
pub(super) const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
pub(super) const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
pub(super) const JUMP_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
pub(super) const JUMP_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
pub(super) const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

pub(super) const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

/// When a block is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sense {
    If,
    Unless,
}

#[derive(Default)]
pub(super) struct Program(pub(super) BpfProgram);

impl Program {
    pub(super) fn load(&mut self, offset: u32) {
        self.0.push(instruction(LOAD, offset));
    }

    /// `body` runs if (or unless) the test holds, else it is jumped over.
    pub(super) fn block(&mut self, test: u16, operand: u32, sense: Sense, body: &[sock_filter]) {
        // Blocks are short: a test holds the bound for that of `socket`, the longest.
        let over = u8::try_from(body.len()).unwrap_or(u8::MAX);
        let (jt, jf) = if sense == Sense::If { (0, over) } else { (over, 0) };
        self.0.push(sock_filter { code: test, jt, jf, k: operand });
        self.0.extend_from_slice(body);
    }

    /// A block for one system call that looks at its arguments and allows what it does not refuse.
    pub(super) fn arguments(&mut self, number: i64, fill: impl FnOnce(&mut Self)) {
        let mut body = Self::default();
        fill(&mut body);
        body.0.push(instruction(RETURN, ALLOW));
        self.block(JUMP_EQUAL, call(number), Sense::If, &body.0);
    }

    pub(super) fn refuse_bits(&mut self, index: u32, bits: u32) {
        self.load(argument(index));
        self.block(JUMP_ANY_BIT, bits, Sense::If, &[refuse(libc::EPERM)]);
    }

    pub(super) fn refuse_value(&mut self, index: u32, value: u32) {
        self.load(argument(index));
        self.block(JUMP_EQUAL, value, Sense::If, &[refuse(libc::EPERM)]);
    }
}

/// The low 32 bits of an argument.
pub(super) fn argument(index: u32) -> u32 {
    OFFSET_ARGUMENTS + 8 * index
}

pub(super) fn call(number: i64) -> u32 {
    // Call numbers are small and positive.
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) fn refuse(errno: i32) -> sock_filter {
    instruction(RETURN, libc::SECCOMP_RET_ERRNO | (errno.cast_unsigned() & libc::SECCOMP_RET_DATA))
}

pub(super) fn instruction(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}
