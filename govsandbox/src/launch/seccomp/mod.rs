//! The seccomp filter: system calls that lead around the other layers.
//!
//! One classic BPF program, put together here because `seccompiler`'s compiler knows one errno a filter and lets
//! another architecture's calls die. The kernel caches "always allowed" by call number (Linux 5.11), so that calls
//! without a row below cost next to nothing.

use std::io;

use govsandbox_ebpf::decide::privilege::{CONSOLE_COMMANDS, TERMINAL_COMMANDS, USERFAULTFD_IOC_NEW};
use seccompiler::BpfProgram;

use self::{
    calls::{BY_ARGUMENTS, MACHINE, MACHINE_HERE, MOUNTS, MOUNTS_BY_DESCRIPTOR},
    program::{
        ALLOW, AND, JUMP_AT_LEAST, JUMP_EQUAL, OFFSET_ARCHITECTURE, OFFSET_NUMBER, Program, RETURN, Sense,
        argument, call, instruction, refuse,
    },
};

mod calls;
pub mod performer;
mod program;
mod verdict;

pub use self::{
    calls::Reason,
    verdict::{Attempt, Refusal, numbers, refusal},
};

/// What is filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeccompPlan {
    /// `io_uring_*` answers ENOSYS: its workers open files without the caller's system call.
    pub io_uring: Ring,
    /// Memory arguments that a verdict can't read.
    pub openat2: Openat2,
    /// `process.namespaces`, and with it mounts.
    pub namespaces: Namespaces,
    /// `process.userfaultfd`.
    pub userfaultfd: bool,
    /// `network.icmp`: ping sockets.
    pub icmp: bool,
    /// Signals to the process group that is shared with the supervisor and the shell's job, by kill(2) and by terminals.
    pub group_signals: GroupSignals,
    /// Giving the terminal to another process group.
    pub foreground: Foreground,
    /// Calls that wait for a performer.
    pub performed: Performed,
}

/// What a performer does on the caller's behalf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Performed {
    /// Handed over, by number.
    pub calls: &'static [i64],
    /// Newer forms of them, which answer ENOSYS: callers fall back.
    pub missing: &'static [i64],
}

impl Performed {
    /// Nothing is.
    pub const NOTHING: Self = Self { calls: &[], missing: &[] };
}

/// `io_uring`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// The hooks see what its workers do.
    Allow,
    /// ENOSYS.
    Missing,
}

/// `openat2`, whose flags lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Openat2 {
    /// The hooks see what is opened.
    Allow,
    /// ENOSYS: callers fall back to `openat`.
    Missing,
}

/// New namespaces and mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// Left to the kernel and the hooks, which judge mount(2); newer forms of it answer ENOSYS.
    Allow,
    /// EPERM.
    Deny,
}

/// `kill(0, …)`: signals to the caller's own process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupSignals {
    /// Kept inside by Landlock's scope or by the hook.
    Allow,
    /// EPERM: nothing else keeps them inside.
    Deny,
}

/// `tcsetpgrp(3)`: whoever reads the terminal in a group that has it not stops that group, all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreground {
    /// Shells inside have job control.
    Allow,
    /// EPERM: others outside are in the command's group.
    Deny,
}

impl SeccompPlan {
    /// For verdicts by hooks in the kernel.
    pub const HOOKS: Self = Self {
        io_uring: Ring::Allow,
        openat2: Openat2::Allow,
        namespaces: Namespaces::Deny,
        userfaultfd: false,
        icmp: false,
        group_signals: GroupSignals::Allow,
        foreground: Foreground::Allow,
        performed: Performed::NOTHING,
    };
    /// For the backend `fanotify`.
    pub const FANOTIFY: Self = Self {
        io_uring: Ring::Missing,
        openat2: Openat2::Missing,
        namespaces: Namespaces::Deny,
        userfaultfd: false,
        icmp: false,
        group_signals: GroupSignals::Allow,
        foreground: Foreground::Allow,
        performed: Performed::NOTHING,
    };
}

// include/uapi/linux/audit.h
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Bit of x32's call numbers (arch/x86/include/uapi/asm/unistd.h); no native number is that high.
const X32_BIT: u32 = 0x4000_0000;

/// `CLONE_NEW*` flags that `clone(2)` takes; `CLONE_NEWTIME` (0x80) is part of its exit signal there.
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;
const NEW_TIME: u32 = 0x80;

/// Options of `setsockopt(2)`, by level, that send packets by way of an address that no other layer judges: source routes
/// of IPv4 (`IP_OPTIONS`) and IPv6 (`IPV6_RTHDR`, and `IPV6_2292RTHDR` and `IPV6_2292PKTOPTIONS` of include/uapi/linux/in6.h);
/// that have them answered there (`IP_FREEBIND`, `IPV6_FREEBIND`); or that decide who of many that listen on one port gets what comes (`SO_ATTACH_REUSEPORT_CBPF`, `…_EBPF`).
const OPTIONS: [(i32, &[u32]); 3] =
    [(libc::IPPROTO_IP, &[4, 15]), (libc::IPPROTO_IPV6, &[57, 5, 6, 78]), (libc::SOL_SOCKET, &[51, 52])];

/// `SOCK_TYPE_MASK` of include/linux/net.h: the rest are flags.
const SOCKET_KIND: u32 = 0xf;
/// `IPPROTO_MPTCP`: programs try it and fall back to TCP.
const MPTCP: u32 = 262;
/// Mappings become executable, or there is one at address 0 (include/uapi/linux/personality.h).
const UNSAFE_PERSONALITIES: u32 = (libc::READ_IMPLIES_EXEC | libc::MMAP_PAGE_ZERO).cast_unsigned();
/// The argument that asks for the present personality.
const ASK_PERSONALITY: u32 = u32::MAX;
/// `TIOCSPGRP` (include/uapi/asm-generic/ioctls.h).
const SET_FOREGROUND: u32 = 0x5410;
/// Commands of `ioctl(2)` that make, copy, change and remove volumes of a file system past everything that asks about names
/// (include/uapi/linux/btrfs.h: `SNAP_CREATE`, `SUBVOL_CREATE`, `SNAP_DESTROY`, their second versions, `SUBVOL_SETFLAGS`,
/// `SET_RECEIVED_SUBVOL`; `SUBVOLUME_CREATE` and `SUBVOLUME_DESTROY` of bcachefs): a snapshot has all files once more.
const VOLUME_COMMANDS: [u32; 10] = [
    0x5000_9401,
    0x5000_940e,
    0x5000_940f,
    0x5000_9417,
    0x5000_9418,
    0x5000_943f,
    0x4008_941a,
    0xc0c8_9425,
    0x4020_bc10,
    0x4020_bc11,
];
/// `file_setattr(2)` (Linux 6.17): flags of an inode by its path, which no hook of ours sees.
const FILE_SETATTR: i64 = 469;
/// Commands of `fcntl(2)` by which a file that can only be read holds up or watches who opens it elsewhere: `F_SETLEASE`,
/// `F_NOTIFY`, and `F_SETDELEG` of Linux 6.19 (include/uapi/linux/fcntl.h).
const LEASES: [u32; 3] = [1024, 1026, 1040];
/// `F_SETSIG` (include/uapi/asm-generic/fcntl.h), and `FIOASYNC`, which is `O_ASYNC` by `ioctl(2)`: a terminal sends its
/// foreground group such signals, and the supervisor, with others of the shell's job, is in it.
const SET_SIGNAL: u32 = 10;
const ASYNC: u32 = 0x5452;
/// `IOPRIO_WHO_PGRP` (include/uapi/linux/ioprio.h).
const IOPRIO_WHO_PGRP: u32 = 2;

/// The program.
#[must_use]
pub fn program(plan: &SeccompPlan) -> BpfProgram {
    let mut program = Program::default();
    program.load(OFFSET_ARCHITECTURE);
    program.block(JUMP_EQUAL, ARCHITECTURE, Sense::Unless, &[refuse(libc::ENOSYS)]);
    program.load(OFFSET_NUMBER);
    if cfg!(target_arch = "x86_64") {
        program.block(JUMP_AT_LEAST, X32_BIT, Sense::If, &[refuse(libc::ENOSYS)]);
    }
    let mut missing = vec![libc::SYS_clone3, FILE_SETATTR];
    if plan.io_uring == Ring::Missing {
        missing.extend([libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register]);
    }
    if plan.openat2 == Openat2::Missing {
        missing.push(libc::SYS_openat2);
    }
    let mut refused = [MACHINE, MACHINE_HERE].concat();
    if plan.namespaces == Namespaces::Deny {
        refused.extend([MOUNTS, MOUNTS_BY_DESCRIPTOR].concat());
    } else {
        missing.extend(MOUNTS_BY_DESCRIPTOR.iter().map(|(number, _)| *number));
    }
    for ((number, _), _) in BY_ARGUMENTS {
        by_arguments(&mut program, plan, *number);
    }
    missing.extend(plan.performed.missing);
    let refused = refused.into_iter().map(|(number, _)| number).collect();
    for (numbers, errno) in [(missing, libc::ENOSYS), (refused, libc::EPERM)] {
        for number in numbers {
            program.block(JUMP_EQUAL, call(number), Sense::If, &[refuse(errno)]);
        }
    }
    for number in plan.performed.calls {
        let hand_over = instruction(RETURN, libc::SECCOMP_RET_USER_NOTIF);
        program.block(JUMP_EQUAL, call(*number), Sense::If, &[hand_over]);
    }
    program.0.push(instruction(RETURN, ALLOW));
    program.0
}

/// The block of one of [`BY_ARGUMENTS`].
fn by_arguments(program: &mut Program, plan: &SeccompPlan, number: i64) {
    match number {
        libc::SYS_clone if plan.namespaces == Namespaces::Deny => {
            program.arguments(number, |block| block.refuse_bits(0, NEW_NAMESPACES));
        }
        libc::SYS_unshare if plan.namespaces == Namespaces::Deny => {
            program.arguments(number, |block| block.refuse_bits(0, NEW_NAMESPACES | NEW_TIME));
        }
        libc::SYS_userfaultfd if !plan.userfaultfd => {
            program.block(JUMP_EQUAL, call(number), Sense::If, &[refuse(libc::EPERM)]);
        }
        libc::SYS_ioctl => program.arguments(number, |block| commands(block, plan)),
        libc::SYS_socket => program.arguments(number, |block| sockets(block, plan)),
        libc::SYS_socketpair => program.arguments(number, |block| {
            block.load(argument(0));
            block.block(
                JUMP_EQUAL,
                libc::AF_UNIX.cast_unsigned(),
                Sense::Unless,
                &[refuse(libc::EAFNOSUPPORT)],
            );
        }),
        libc::SYS_setsockopt => program.arguments(number, options),
        libc::SYS_personality => program.arguments(number, |block| {
            block.load(argument(0));
            block.block(JUMP_EQUAL, ASK_PERSONALITY, Sense::If, &[instruction(RETURN, ALLOW)]);
            block.refuse_bits(0, UNSAFE_PERSONALITIES);
        }),
        // The own group is the supervisor's and the shell's job too; by number no group outside can be named.
        libc::SYS_setpriority => {
            program.arguments(number, |block| block.refuse_value(0, libc::PRIO_PGRP));
        }
        libc::SYS_ioprio_set => program.arguments(number, |block| block.refuse_value(0, IOPRIO_WHO_PGRP)),
        libc::SYS_fcntl => program.arguments(number, |block| {
            LEASES.into_iter().for_each(|command| block.refuse_value(1, command));
            if plan.group_signals == GroupSignals::Deny {
                block.refuse_value(1, SET_SIGNAL);
                let mut flags = Program::default();
                flags.refuse_bits(2, libc::O_ASYNC.cast_unsigned());
                block.block(JUMP_EQUAL, libc::F_SETFL.cast_unsigned(), Sense::If, &flags.0);
            }
        }),
        libc::SYS_kill if plan.group_signals == GroupSignals::Deny => {
            program.arguments(number, |block| block.refuse_value(0, 0));
        }
        // In a user namespace of its own a process could say that it is another program (`PR_SET_MM_EXE_FILE`).
        libc::SYS_prctl if plan.namespaces == Namespaces::Allow => {
            program.arguments(number, |block| block.refuse_value(0, libc::PR_SET_MM.cast_unsigned()));
        }
        // Left to the kernel by this plan.
        _ => {}
    }
}

/// The kernel takes the command as an `unsigned int`: the upper half of the register counts for nothing.
fn commands(block: &mut Program, plan: &SeccompPlan) {
    block.load(argument(1));
    for command in TERMINAL_COMMANDS.into_iter().chain(VOLUME_COMMANDS) {
        block.block(JUMP_EQUAL, command, Sense::If, &[refuse(libc::EPERM)]);
    }
    if plan.group_signals == GroupSignals::Deny {
        block.block(JUMP_EQUAL, ASYNC, Sense::If, &[refuse(libc::EPERM)]);
    }
    if plan.foreground == Foreground::Deny {
        block.block(JUMP_EQUAL, SET_FOREGROUND, Sense::If, &[refuse(libc::EPERM)]);
    }
    if !plan.userfaultfd {
        block.block(JUMP_EQUAL, USERFAULTFD_IOC_NEW, Sense::If, &[refuse(libc::EPERM)]);
    }
    block.0.push(instruction(AND, 0xffff_ff00));
    for page in CONSOLE_COMMANDS {
        block.block(JUMP_EQUAL, page, Sense::If, &[refuse(libc::EPERM)]);
    }
}

fn options(block: &mut Program) {
    for (level, options) in OPTIONS {
        let mut of_level = Program::default();
        of_level.load(argument(2));
        for option in options {
            of_level.block(JUMP_EQUAL, *option, Sense::If, &[refuse(libc::EPERM)]);
        }
        of_level.0.push(instruction(RETURN, ALLOW));
        block.load(argument(1));
        block.block(JUMP_EQUAL, level.cast_unsigned(), Sense::If, &of_level.0);
    }
}

/// Applies it to this thread; sets `no_new_privs`.
///
/// # Errors
/// `EINVAL`: the kernel has no seccomp filters.
pub fn apply(program: &BpfProgram) -> io::Result<()> {
    seccompiler::apply_filter(program).map_err(|error| match error {
        seccompiler::Error::Prctl(source) | seccompiler::Error::Seccomp(source) => source,
        other => io::Error::other(other.to_string()),
    })
}

/// `AF_UNIX`; TCP and UDP over inet; routing and uevent netlink. No raw or packet socket, no other protocol: MPTCP and
/// SCTP meet other hooks than TCP does.
fn sockets(block: &mut Program, plan: &SeccompPlan) {
    let allow = [instruction(RETURN, ALLOW)];
    block.load(argument(0));
    block.block(JUMP_EQUAL, libc::AF_UNIX.cast_unsigned(), Sense::If, &allow);
    let mut netlink = Program::default();
    netlink.load(argument(2));
    for protocol in [libc::NETLINK_ROUTE, libc::NETLINK_KOBJECT_UEVENT] {
        netlink.block(JUMP_EQUAL, protocol.cast_unsigned(), Sense::If, &allow);
    }
    netlink.0.push(refuse(libc::EPERM));
    block.block(JUMP_EQUAL, libc::AF_NETLINK.cast_unsigned(), Sense::If, &netlink.0);
    let mut inet = Program::default();
    inet.load(argument(2));
    for protocol in [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
        let kinds = of_kinds(&[libc::SOCK_STREAM, libc::SOCK_DGRAM]);
        inet.block(JUMP_EQUAL, protocol.cast_unsigned(), Sense::If, &kinds.0);
    }
    inet.block(JUMP_EQUAL, MPTCP, Sense::If, &[refuse(libc::EPROTONOSUPPORT)]);
    for (family, ping) in [(libc::AF_INET, libc::IPPROTO_ICMP), (libc::AF_INET6, libc::IPPROTO_ICMPV6)] {
        let mut of_family = Program(inet.0.clone());
        if plan.icmp {
            let kinds = of_kinds(&[libc::SOCK_DGRAM]);
            of_family.block(JUMP_EQUAL, ping.cast_unsigned(), Sense::If, &kinds.0);
        }
        of_family.0.push(refuse(libc::EPERM));
        block.block(JUMP_EQUAL, family.cast_unsigned(), Sense::If, &of_family.0);
    }
    block.0.push(refuse(libc::EAFNOSUPPORT));
}

/// Sockets of these kinds alone.
fn of_kinds(kinds: &[i32]) -> Program {
    let mut block = Program::default();
    block.load(argument(1));
    block.0.push(instruction(AND, SOCKET_KIND));
    for kind in kinds {
        block.block(JUMP_EQUAL, kind.cast_unsigned(), Sense::If, &[instruction(RETURN, ALLOW)]);
    }
    block.0.push(refuse(libc::EPERM));
    block
}

#[cfg(test)]
#[path = "seccomp_tests.rs"]
mod tests;
