//! The filter, run on system calls.

use govsandbox_ebpf::decide::privilege::{may_command_terminal, may_create_socket, may_set_option};

use super::*;

fn native(plan: &SeccompPlan, number: i64, arguments: [u64; 6]) -> u32 {
    // The filter looks at the low halves of the first four alone; `run` answers nothing for another program.
    let low = [0, 1, 2, 3].map(|place: usize| arguments[place] as u32);
    verdict::run(&program(plan), ARCHITECTURE, call(number), low).unwrap()
}

fn errno(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

#[test]
fn blocks_are_short_enough_for_a_jump() {
    let mut block = Program::default();
    sockets(&mut block, &SeccompPlan { icmp: true, ..SeccompPlan::HOOKS });
    assert!(block.0.len() + 1 < usize::from(u8::MAX), "{}", block.0.len());
}

#[test]
fn ordinary_calls_pass() {
    for number in [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_seccomp] {
        assert_eq!(native(&SeccompPlan::FANOTIFY, number, [0; 6]), ALLOW, "{number}");
    }
}

#[test]
fn another_architecture_and_x32_have_no_system_calls() {
    let program = program(&SeccompPlan::HOOKS);
    assert_eq!(verdict::run(&program, 0x4000_0003, 3, [0; 4]).unwrap(), errno(libc::ENOSYS));
    if cfg!(target_arch = "x86_64") {
        assert_eq!(verdict::run(&program, ARCHITECTURE, X32_BIT | 1, [0; 4]).unwrap(), errno(libc::ENOSYS));
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
        native(&SeccompPlan::HOOKS, libc::SYS_socket, [family as u64, kind as u64, protocol as u64, 0, 0, 0])
    };
    let cloexec = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    assert_eq!(socket(libc::AF_UNIX, cloexec, 0), ALLOW);
    assert_eq!(socket(libc::AF_INET, cloexec, libc::IPPROTO_TCP), ALLOW);
    assert_eq!(socket(libc::AF_INET6, libc::SOCK_DGRAM, 0), ALLOW);
    assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, 0), ALLOW);
    assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT), errno(libc::EPERM));
    assert_eq!(socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP), errno(libc::EPERM));
    assert_eq!(socket(libc::AF_INET, libc::SOCK_STREAM, 262), errno(libc::EPROTONOSUPPORT));
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
    for option in [51, 52] {
        assert_eq!(set(libc::SOL_SOCKET, option), errno(libc::EPERM), "{option}");
    }
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

#[test]
fn filter_and_hooks_say_the_same_of_sockets_options_and_terminals() {
    for family in -1..48_i32 {
        for kind in 0..16_i32 {
            for protocol in [-1, 0, 1, 2, 4, 6, 12, 15, 16, 17, 41, 58, 132, 136, 255, 256, 262] {
                let words = [family as u64, (kind | libc::SOCK_CLOEXEC) as u64, protocol as u64, 0, 0, 0];
                for icmp in [false, true] {
                    let plan = SeccompPlan { icmp, ..SeccompPlan::HOOKS };
                    let passes = native(&plan, libc::SYS_socket, words) == ALLOW;
                    let may = may_create_socket(family, kind, protocol, icmp);
                    assert_eq!(passes, may, "{family} {kind} {protocol} {icmp}");
                }
            }
        }
    }
    for level in -1..300_i32 {
        for option in -1..128_i32 {
            let words = [3, level as u64, option as u64, 0, 0, 0];
            let passes = native(&SeccompPlan::HOOKS, libc::SYS_setsockopt, words) == ALLOW;
            assert_eq!(passes, may_set_option(level, option), "{level} {option}");
        }
    }
    for command in (0..=0xffff_u32).filter(|command| *command != USERFAULTFD_IOC_NEW) {
        let words = [0, u64::from(command) | 0xbad_0000_0000, 0, 0, 0, 0];
        let passes = native(&SeccompPlan::HOOKS, libc::SYS_ioctl, words) == ALLOW;
        assert_eq!(passes, may_command_terminal(command), "{command:x}");
    }
}

#[test]
fn no_volume_is_made_or_copied() {
    for command in VOLUME_COMMANDS {
        let words = [3, u64::from(command) | 0xbad_0000_0000, 0, 0, 0, 0];
        for plan in [SeccompPlan::HOOKS, SeccompPlan::FANOTIFY] {
            assert_eq!(native(&plan, libc::SYS_ioctl, words), errno(libc::EPERM), "{command:x}");
        }
    }
    // FICLONE and FICLONERANGE have the same type byte: cp(1) copies by them.
    for command in [0x4004_9409_u64, 0x4020_940d] {
        assert_eq!(native(&SeccompPlan::HOOKS, libc::SYS_ioctl, [3, command, 4, 0, 0, 0]), ALLOW);
    }
}

#[test]
fn userfaultfd_has_two_doors() {
    for plan in [SeccompPlan::HOOKS, SeccompPlan { userfaultfd: true, ..SeccompPlan::HOOKS }] {
        let expected = if plan.userfaultfd { ALLOW } else { errno(libc::EPERM) };
        assert_eq!(native(&plan, libc::SYS_userfaultfd, [0; 6]), expected);
        let command = [3, u64::from(USERFAULTFD_IOC_NEW), 0, 0, 0, 0];
        assert_eq!(native(&plan, libc::SYS_ioctl, command), expected);
    }
}

#[test]
fn a_personality_that_makes_mappings_executable_is_refused() {
    let set = |flags: u64| native(&SeccompPlan::HOOKS, libc::SYS_personality, [flags, 0, 0, 0, 0, 0]);
    assert_eq!(set(0x0040_0000), errno(libc::EPERM));
    assert_eq!(set(0xffff_ffff_0010_0000), errno(libc::EPERM));
    // Asking, ADDR_NO_RANDOMIZE, PER_LINUX32.
    for harmless in [0xffff_ffff, 0x0004_0000, 8, 0] {
        assert_eq!(set(harmless), ALLOW, "{harmless:x}");
    }
}

#[test]
fn a_process_group_that_is_shared_with_the_outside_is_left_alone() {
    let group = [1_u64, 0, 10, 0, 0, 0];
    assert_eq!(native(&SeccompPlan::HOOKS, libc::SYS_setpriority, group), errno(libc::EPERM));
    assert_eq!(native(&SeccompPlan::HOOKS, libc::SYS_setpriority, [0, 0, 10, 0, 0, 0]), ALLOW);
    assert_eq!(native(&SeccompPlan::HOOKS, libc::SYS_ioprio_set, [2, 0, 0, 0, 0, 0]), errno(libc::EPERM));
    let kill = |plan: &SeccompPlan, pid: i64| native(plan, libc::SYS_kill, [pid as u64, 15, 0, 0, 0, 0]);
    let strict = SeccompPlan { group_signals: GroupSignals::Deny, ..SeccompPlan::FANOTIFY };
    assert_eq!(kill(&strict, 0), errno(libc::EPERM));
    let by_terminal = |plan: &SeccompPlan| {
        let fcntl = |command: i32, flags: i32| {
            native(plan, libc::SYS_fcntl, [0, command as u64, flags as u64, 0, 0, 0])
        };
        assert_eq!(fcntl(libc::F_SETFL, libc::O_NONBLOCK), ALLOW);
        let ioctl = native(plan, libc::SYS_ioctl, [0, 0x5452, 0, 0, 0, 0]);
        [fcntl(10, 9), fcntl(libc::F_SETFL, libc::O_NONBLOCK | libc::O_ASYNC), ioctl]
    };
    assert_eq!(by_terminal(&strict), [errno(libc::EPERM); 3]);
    assert_eq!(by_terminal(&SeccompPlan::HOOKS), [ALLOW; 3]);
    assert_eq!((kill(&strict, -1), kill(&strict, 7), kill(&SeccompPlan::FANOTIFY, 0)), (ALLOW, ALLOW, ALLOW));
}

#[test]
fn a_terminal_that_others_share_is_not_given_away() {
    let alone = SeccompPlan::HOOKS;
    let shared = SeccompPlan { foreground: Foreground::Deny, ..SeccompPlan::HOOKS };
    let give = |plan: &SeccompPlan| {
        native(plan, libc::SYS_ioctl, [0, libc::TIOCSPGRP | 0xbad_0000_0000, 0, 0, 0, 0])
    };
    assert_eq!((give(&alone), give(&shared)), (ALLOW, errno(libc::EPERM)));
    assert_eq!(native(&shared, libc::SYS_ioctl, [0, libc::TIOCGPGRP, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn nothing_that_holds_up_who_opens_a_file_elsewhere() {
    let ask = |command: u64| native(&SeccompPlan::HOOKS, libc::SYS_fcntl, [3, command, 1, 0, 0, 0]);
    for command in [libc::F_SETLEASE as u64, libc::F_NOTIFY as u64, 1040, 0xbad_0000_0400] {
        assert_eq!(ask(command), errno(libc::EPERM), "{command}");
    }
    for command in
        [libc::F_GETLEASE, libc::F_SETLKW, libc::F_DUPFD_CLOEXEC, libc::F_SETPIPE_SZ, libc::F_SETFL]
    {
        assert_eq!(ask(command as u64), ALLOW, "{command}");
    }
}

#[test]
fn what_the_filter_refused_is_told_from_what_the_kernel_did() {
    let program = program(&SeccompPlan::HOOKS);
    let attempt = |number: i64, arguments: [u32; 4], errno: i32| {
        let number = call(number);
        refusal(&program, &Attempt { number, arguments, foreign: false, errno })
    };
    let bpf = attempt(libc::SYS_bpf, [0; 4], libc::EPERM).unwrap();
    assert_eq!((bpf.call, bpf.reason), ("bpf", Reason::Machine));
    let user = attempt(libc::SYS_unshare, [0x1000_0000, 0, 0, 0], libc::EPERM).unwrap();
    assert_eq!(
        (user.call, user.reason, user.detail.as_str()),
        ("unshare", Reason::Namespaces, "flags 0x10000000")
    );
    let alg = attempt(libc::SYS_socket, [38, 0x80005, 0, 0], libc::EAFNOSUPPORT).unwrap();
    assert_eq!((alg.reason, alg.detail.as_str()), (Reason::Sockets, "family 38, type 5, protocol 0"));
    // The kernel's own refusals, and another errno than the filter's.
    assert_eq!(attempt(libc::SYS_kill, [1, 9, 0, 0], libc::EPERM), None);
    assert_eq!(attempt(libc::SYS_socket, [2, 1, 0, 0], libc::EPERM), None);
    assert_eq!(attempt(libc::SYS_bpf, [0; 4], libc::EINVAL), None);
    let foreign = Attempt { number: 20, arguments: [0; 4], foreign: true, errno: libc::ENOSYS };
    assert_eq!(refusal(&program, &foreign).unwrap().reason, Reason::Architecture);
}

#[test]
fn every_call_that_is_refused_has_a_name_and_is_traced() {
    let program = program(&SeccompPlan::FANOTIFY);
    for number in 0..512 {
        let answer = verdict::run(&program, ARCHITECTURE, number, [0; 4]).unwrap();
        if answer == errno(libc::EPERM) {
            assert!(numbers().any(|known| known == number), "{number}");
        }
    }
}
