//! Two programs at the cgroup, for sandboxes without LSM programs: no member connects a unix socket itself, since the
//! performer does that, and none sends a datagram to a path. Linux 6.7.
//!
//! aya does not know where they are attached, so they are put together here.

use std::{
    ffi::CString,
    io,
    mem::offset_of,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use govsandbox_ebpf::abi::rule::SandboxConfig;

use crate::sys::bpf::{Instruction, attach_to_addresses};

// Helpers (include/uapi/linux/bpf.h).
const MAP_LOOKUP: i32 = 1;
const PID_TGID: i32 = 14;
const PROBE_READ_KERNEL: i32 = 113;
/// Where `struct bpf_sock_addr_kern` (include/linux/filter.h) has the address, behind the socket.
const ADDRESS: i32 = 8;
/// Of a frame: the key of a look-up, and what is read of an address.
const KEY: i16 = -4;
const READ: i16 = -16;
/// Verdicts.
const REFUSE: i32 = 0;
const PASS: i32 = 1;

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// `connect(2)`: refused, whatever the address.
    Connect,
    /// A datagram with an address: refused to a path. Abstract names Landlock keeps apart.
    Send,
}

impl Way {
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Connect => "connect_unix",
            Self::Send => "sendmsg_unix",
        }
    }

    /// `BPF_CGROUP_UNIX_CONNECT`, `BPF_CGROUP_UNIX_SENDMSG`.
    fn attach_type(self) -> u32 {
        match self {
            Self::Connect => 49,
            Self::Send => 50,
        }
    }
}

/// Loads, attaches and pins one.
///
/// # Errors
/// The kernel is older, or does not take it.
pub(super) fn attach(
    way: Way,
    members: BorrowedFd<'_>,
    sandboxes: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    pin: &Path,
) -> io::Result<()> {
    let pin = CString::new(pin.as_os_str().as_bytes())?;
    let program = program(way, members.as_raw_fd(), sandboxes.as_raw_fd());
    attach_to_addresses(&program, way.attach_type(), cgroup, &pin)
}

/// Jumps are resolved at the end: to where it passes or refuses.
#[derive(Default)]
struct Assembly {
    code: Vec<Instruction>,
    to_pass: Vec<usize>,
    to_refuse: Vec<usize>,
}

impl Assembly {
    fn push(&mut self, code: u8, registers: u8, offset: i16, number: i32) {
        self.code.push(Instruction(code, registers, offset, number));
    }

    /// `r1 = MAP; r2 = &key; r0 = look-up`.
    fn look_up(&mut self, map: i32) {
        self.push(0x18, 0x11, 0, map);
        self.push(0, 0, 0, 0);
        self.push(0xbf, 0xa2, 0, 0);
        self.push(0x07, 0x02, 0, i32::from(KEY));
        self.push(0x85, 0, 0, MAP_LOOKUP);
    }

    /// Reads so many bytes at `r3` into the frame, or refuses.
    fn read(&mut self, bytes: i32) {
        self.push(0xbf, 0xa1, 0, 0);
        self.push(0x07, 0x01, 0, i32::from(READ));
        self.push(0xb7, 0x02, 0, bytes);
        self.push(0x85, 0, 0, PROBE_READ_KERNEL);
        self.to_refuse.push(self.code.len());
        self.push(0x55, 0x00, 0, 0);
    }

    fn finish(mut self) -> Vec<Instruction> {
        let refuse = self.code.len();
        for verdict in [REFUSE, PASS] {
            self.push(0xb7, 0x00, 0, verdict);
            self.push(0x95, 0, 0, 0);
        }
        for (jumps, target) in [(self.to_refuse, refuse), (self.to_pass, refuse + 2)] {
            for at in jumps {
                if let Some(jump) = self.code.get_mut(at) {
                    jump.2 = i16::try_from(target - at - 1).unwrap_or(0);
                }
            }
        }
        self.code
    }
}

fn program(way: Way, members: i32, sandboxes: i32) -> Vec<Instruction> {
    let field = |offset: usize| i16::try_from(offset).unwrap_or(0);
    let mut code = Assembly::default();
    // r6 = context; key = thread group
    code.push(0xbf, 0x16, 0, 0);
    code.push(0x85, 0, 0, PID_TGID);
    code.push(0x77, 0x00, 0, 32);
    code.push(0x63, 0x0a, KEY, 0);
    code.look_up(members);
    code.to_pass.push(code.code.len());
    code.push(0x15, 0x00, 0, 0);
    // key = sandbox; one that is gone is refused
    code.push(0x61, 0x01, 0, 0);
    code.push(0x63, 0x1a, KEY, 0);
    code.look_up(sandboxes);
    code.to_refuse.push(code.code.len());
    code.push(0x15, 0x00, 0, 0);
    code.push(0x71, 0x01, field(offset_of!(SandboxConfig, path_hooks)), 0);
    code.to_pass.push(code.code.len());
    code.push(0x55, 0x01, 0, 0);
    if way == Way::Send {
        code.push(0x71, 0x01, field(offset_of!(SandboxConfig, audit_mode)), 0);
        code.to_pass.push(code.code.len());
        code.push(0x55, 0x01, 0, 0);
        // The address as the kernel has copied it: an abstract name begins with a NUL behind the family.
        code.push(0xbf, 0x63, 0, 0);
        code.push(0x07, 0x03, 0, ADDRESS);
        code.read(8);
        code.push(0x79, 0xa3, READ, 0);
        code.read(4);
        code.push(0x71, 0xa1, READ + 2, 0);
        code.to_pass.push(code.code.len());
        code.push(0x15, 0x01, 0, 0);
    }
    code.finish()
}
