//! The seccomp filter: system calls that lead around the other layers.
//!
//! One classic BPF program, put together here because `seccompiler`'s compiler knows one errno a filter and lets
//! another architecture's calls die. The kernel caches "always allowed" by call number (Linux 5.11), so that calls
//! without a row below cost next to nothing.

use std::io;

use seccompiler::{BpfProgram, sock_filter};

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
    /// Left to the kernel and the hooks.
    Allow,
    /// EPERM.
    Deny,
}

impl SeccompPlan {
    /// For verdicts by hooks in the kernel.
    pub const HOOKS: Self = Self {
        io_uring: Ring::Allow,
        openat2: Openat2::Allow,
        namespaces: Namespaces::Deny,
        userfaultfd: false,
    };
    /// For the backend `fanotify`.
    pub const FANOTIFY: Self = Self {
        io_uring: Ring::Missing,
        openat2: Openat2::Missing,
        namespaces: Namespaces::Deny,
        userfaultfd: false,
    };
}

// Offsets in `struct seccomp_data` (include/uapi/linux/seccomp.h); arguments are little-endian on both architectures.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

// include/uapi/linux/audit.h
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Bit of x32's call numbers (arch/x86/include/uapi/asm/unistd.h); no native number is that high.
const X32_BIT: u32 = 0x4000_0000;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

/// `CLONE_NEW*` flags that `clone(2)` takes; `CLONE_NEWTIME` (0x80) is part of its exit signal there.
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;
const NEW_TIME: u32 = 0x80;

/// `open_tree_attr(2)`, Linux 6.15; the same number everywhere.
const OPEN_TREE_ATTR: i64 = 467;

/// Refused with EPERM always.
const PRIVILEGED: &[i64] = &[
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

/// Refused with EPERM unless `process.namespaces = "allow"`.
const MOUNTS: &[i64] = &[
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    OPEN_TREE_ATTR,
];

/// Options of `setsockopt(2)`, by level, that send packets by way of an address that no other layer judges: source routes
/// of IPv4 (`IP_OPTIONS`) and IPv6 (`IPV6_RTHDR`, and `IPV6_2292RTHDR` and `IPV6_2292PKTOPTIONS` of include/uapi/linux/in6.h).
const ROUTES: [(i32, &[u32]); 2] = [(libc::IPPROTO_IP, &[4]), (libc::IPPROTO_IPV6, &[57, 5, 6])];

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
    let mut missing = vec![libc::SYS_clone3];
    if plan.io_uring == Ring::Missing {
        missing.extend([libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register]);
    }
    if plan.openat2 == Openat2::Missing {
        missing.push(libc::SYS_openat2);
    }
    let mut refused = PRIVILEGED.to_vec();
    if !plan.userfaultfd {
        refused.push(libc::SYS_userfaultfd);
    }
    if plan.namespaces == Namespaces::Deny {
        refused.extend(MOUNTS);
        program.arguments(libc::SYS_clone, |block| block.refuse_bits(0, NEW_NAMESPACES));
        program.arguments(libc::SYS_unshare, |block| block.refuse_bits(0, NEW_NAMESPACES | NEW_TIME));
    } else {
        missing.retain(|number| *number != libc::SYS_clone3);
    }
    // The kernel takes the command as an `unsigned int`: the upper half of the register counts for nothing.
    program.arguments(libc::SYS_ioctl, |block| {
        block.load(argument(1));
        for command in [libc::TIOCSTI, libc::TIOCLINUX] {
            block.block(JUMP_EQUAL, command as u32, Sense::If, &[refuse(libc::EPERM)]);
        }
    });
    program.arguments(libc::SYS_socketpair, |block| {
        block.load(argument(0));
        block.block(JUMP_EQUAL, libc::AF_UNIX.cast_unsigned(), Sense::Unless, &[refuse(libc::EAFNOSUPPORT)]);
    });
    program.arguments(libc::SYS_socket, sockets);
    program.arguments(libc::SYS_setsockopt, |block| {
        for (level, options) in ROUTES {
            let mut of_level = Program::default();
            of_level.load(argument(2));
            for option in options {
                of_level.block(JUMP_EQUAL, *option, Sense::If, &[refuse(libc::EPERM)]);
            }
            of_level.0.push(instruction(RETURN, ALLOW));
            block.load(argument(1));
            block.block(JUMP_EQUAL, level.cast_unsigned(), Sense::If, &of_level.0);
        }
    });
    for (numbers, errno) in [(missing, libc::ENOSYS), (refused, libc::EPERM)] {
        for number in numbers {
            program.block(JUMP_EQUAL, call(number), Sense::If, &[refuse(errno)]);
        }
    }
    program.0.push(instruction(RETURN, ALLOW));
    program.0
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
fn sockets(block: &mut Program) {
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
        let mut kind = Program::default();
        kind.load(argument(1));
        // `SOCK_TYPE_MASK` of include/linux/net.h: the rest are flags.
        kind.0.push(instruction(AND, 0xf));
        for wanted in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            kind.block(JUMP_EQUAL, wanted.cast_unsigned(), Sense::If, &allow);
        }
        kind.0.push(refuse(libc::EPERM));
        inet.block(JUMP_EQUAL, protocol.cast_unsigned(), Sense::If, &kind.0);
    }
    inet.0.push(refuse(libc::EPERM));
    for family in [libc::AF_INET, libc::AF_INET6] {
        block.block(JUMP_EQUAL, family.cast_unsigned(), Sense::If, &inet.0);
    }
    block.0.push(refuse(libc::EAFNOSUPPORT));
}

/// When a block is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sense {
    If,
    Unless,
}

#[derive(Default)]
struct Program(BpfProgram);

impl Program {
    fn load(&mut self, offset: u32) {
        self.0.push(instruction(LOAD, offset));
    }

    /// `body` runs if (or unless) the test holds, else it is jumped over.
    fn block(&mut self, test: u16, operand: u32, sense: Sense, body: &[sock_filter]) {
        // Blocks are short: the longest is that of `socket`, 50 instructions (a test below holds the bound).
        let over = u8::try_from(body.len()).unwrap_or(u8::MAX);
        let (jt, jf) = if sense == Sense::If { (0, over) } else { (over, 0) };
        self.0.push(sock_filter { code: test, jt, jf, k: operand });
        self.0.extend_from_slice(body);
    }

    /// A block for one system call that looks at its arguments and allows what it does not refuse.
    fn arguments(&mut self, number: i64, fill: impl FnOnce(&mut Self)) {
        let mut body = Self::default();
        fill(&mut body);
        body.0.push(instruction(RETURN, ALLOW));
        self.block(JUMP_EQUAL, call(number), Sense::If, &body.0);
    }

    fn refuse_bits(&mut self, index: u32, bits: u32) {
        self.load(argument(index));
        self.block(JUMP_ANY_BIT, bits, Sense::If, &[refuse(libc::EPERM)]);
    }
}

/// The low 32 bits of an argument.
fn argument(index: u32) -> u32 {
    OFFSET_ARGUMENTS + 8 * index
}

fn call(number: i64) -> u32 {
    // Call numbers are small and positive.
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn refuse(errno: i32) -> sock_filter {
    instruction(RETURN, libc::SECCOMP_RET_ERRNO | (errno.cast_unsigned() & libc::SECCOMP_RET_DATA))
}

fn instruction(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's interpreter would answer.
    fn run(program: &BpfProgram, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let word = |offset: u32| match offset {
            OFFSET_NUMBER => number,
            OFFSET_ARCHITECTURE => architecture,
            other => {
                let at = other - OFFSET_ARGUMENTS;
                (arguments[at as usize / 8] >> (8 * (at % 8))) as u32
            }
        };
        let (mut accumulator, mut at) = (0_u32, 0_usize);
        loop {
            let one = &program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { one.jt } else { one.jf });
            match one.code {
                LOAD => accumulator = word(one.k),
                AND => accumulator &= one.k,
                JUMP_EQUAL => at += jump(accumulator == one.k),
                JUMP_AT_LEAST => at += jump(accumulator >= one.k),
                JUMP_ANY_BIT => at += jump(accumulator & one.k != 0),
                RETURN => return one.k,
                other => panic!("{other}"),
            }
        }
    }

    fn native(plan: &SeccompPlan, number: i64, arguments: [u64; 6]) -> u32 {
        run(&program(plan), ARCHITECTURE, call(number), arguments)
    }

    fn errno(errno: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | errno as u32
    }

    #[test]
    fn blocks_are_short_enough_for_a_jump() {
        let mut block = Program::default();
        sockets(&mut block);
        assert!(block.0.len() + 1 < usize::from(u8::MAX), "{}", block.0.len());
    }

    #[test]
    fn ordinary_calls_pass() {
        for number in
            [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_seccomp]
        {
            assert_eq!(native(&SeccompPlan::FANOTIFY, number, [0; 6]), ALLOW, "{number}");
        }
    }

    #[test]
    fn another_architecture_and_x32_have_no_system_calls() {
        let program = program(&SeccompPlan::HOOKS);
        assert_eq!(run(&program, 0x4000_0003, 3, [0; 6]), errno(libc::ENOSYS));
        if cfg!(target_arch = "x86_64") {
            assert_eq!(run(&program, ARCHITECTURE, X32_BIT | 1, [0; 6]), errno(libc::ENOSYS));
        }
    }

    #[test]
    fn a_thread_is_made_and_a_namespace_is_not() {
        let thread = (libc::CLONE_VM | libc::CLONE_THREAD) as u64;
        assert_eq!(native(&SeccompPlan::HOOKS, libc::SYS_clone, [thread, 0, 0, 0, 0, 0]), ALLOW);
        let user = libc::CLONE_NEWUSER as u64 | libc::SIGCHLD as u64;
        assert_eq!(native(&SeccompPlan::HOOKS, libc::SYS_clone, [user, 0, 0, 0, 0, 0]), errno(libc::EPERM));
        assert_eq!(native(&SeccompPlan::HOOKS, libc::SYS_clone3, [0; 6]), errno(libc::ENOSYS));
        assert_eq!(native(&SeccompPlan::HOOKS, libc::SYS_unshare, [0x80, 0, 0, 0, 0, 0]), errno(libc::EPERM));
    }

    #[test]
    fn terminal_injection_is_judged_by_the_low_half() {
        let high = 0xdead_beef_0000_0000 | libc::TIOCSTI;
        for command in [libc::TIOCSTI, high, libc::TIOCLINUX] {
            assert_eq!(
                native(&SeccompPlan::HOOKS, libc::SYS_ioctl, [0, command, 0, 0, 0, 0]),
                errno(libc::EPERM)
            );
        }
        assert_eq!(native(&SeccompPlan::HOOKS, libc::SYS_ioctl, [0, libc::TCGETS, 0, 0, 0, 0]), ALLOW);
    }

    #[test]
    fn sockets_are_those_that_other_layers_judge() {
        let socket = |family: i32, kind: i32, protocol: i32| {
            native(
                &SeccompPlan::HOOKS,
                libc::SYS_socket,
                [family as u64, kind as u64, protocol as u64, 0, 0, 0],
            )
        };
        let cloexec = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        assert_eq!(socket(libc::AF_UNIX, cloexec, 0), ALLOW);
        assert_eq!(socket(libc::AF_INET, cloexec, libc::IPPROTO_TCP), ALLOW);
        assert_eq!(socket(libc::AF_INET6, libc::SOCK_DGRAM, 0), ALLOW);
        assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, 0), ALLOW);
        assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT), errno(libc::EPERM));
        assert_eq!(socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP), errno(libc::EPERM));
        assert_eq!(socket(libc::AF_INET, libc::SOCK_STREAM, 262), errno(libc::EPERM));
        assert_eq!(socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP), errno(libc::EPERM));
        assert_eq!(socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP), errno(libc::EPERM));
        for family in [libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG] {
            assert_eq!(socket(family, libc::SOCK_STREAM, 0), errno(libc::EAFNOSUPPORT));
        }
    }

    #[test]
    fn packets_are_sent_by_no_route_of_the_senders_own() {
        let set = |level: i32, option: u64| {
            native(&SeccompPlan::HOOKS, libc::SYS_setsockopt, [3, level as u64, option, 0, 0, 0])
        };
        assert_eq!(set(libc::IPPROTO_IP, libc::IP_OPTIONS as u64), errno(libc::EPERM));
        for option in [libc::IPV6_RTHDR as u64, 5, 6] {
            assert_eq!(set(libc::IPPROTO_IPV6, option), errno(libc::EPERM), "{option}");
        }
        assert_eq!(set(libc::IPPROTO_IP, libc::IP_TTL as u64), ALLOW);
        assert_eq!(set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY as u64), ALLOW);
        // The same numbers mean other things at other levels.
        assert_eq!(set(libc::SOL_SOCKET, libc::SO_BROADCAST as u64), ALLOW);
        assert_eq!(set(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL as u64), ALLOW);
    }

    #[test]
    fn what_the_hooks_can_see_is_left_to_them() {
        assert_eq!(native(&SeccompPlan::HOOKS, libc::SYS_io_uring_setup, [0; 6]), ALLOW);
        assert_eq!(native(&SeccompPlan::FANOTIFY, libc::SYS_io_uring_setup, [0; 6]), errno(libc::ENOSYS));
        assert_eq!(native(&SeccompPlan::HOOKS, libc::SYS_openat2, [0; 6]), ALLOW);
        assert_eq!(native(&SeccompPlan::FANOTIFY, libc::SYS_openat2, [0; 6]), errno(libc::ENOSYS));
    }
}
