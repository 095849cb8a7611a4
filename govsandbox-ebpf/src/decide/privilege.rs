//! What needs no privilege and still leads out of a sandbox: families of sockets, source routes, terminal commands, mounts
//! in an own namespace.
//!
//! The seccomp filter says the same in its own words; a test of it compares both.

// include/linux/socket.h, include/linux/net.h
const AF_UNIX: i32 = 1;
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const AF_NETLINK: i32 = 16;
const SOCK_STREAM: i32 = 1;
const SOCK_DGRAM: i32 = 2;
// include/uapi/linux/in.h
const IPPROTO_IP: i32 = 0;
const IPPROTO_ICMP: i32 = 1;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_UDP: i32 = 17;
const IPPROTO_IPV6: i32 = 41;
const IPPROTO_ICMPV6: i32 = 58;
// include/uapi/linux/netlink.h
const NETLINK_ROUTE: i32 = 0;
const NETLINK_KOBJECT_UEVENT: i32 = 15;
/// Source routes of IPv4.
const IP_OPTIONS: i32 = 4;
/// An address of others as the own: whom a packet is sent to answers there. `IP_FREEBIND`, `IPV6_FREEBIND`
/// (include/uapi/linux/in.h, in6.h).
const IP_FREEBIND: i32 = 15;
const IPV6_FREEBIND: i32 = 78;
/// Source routes of IPv6: `IPV6_RTHDR`, `IPV6_2292RTHDR`, `IPV6_2292PKTOPTIONS` (include/uapi/linux/in6.h).
const IPV6_ROUTES: [i32; 3] = [57, 5, 6];

/// May such a socket be made? Those that other layers judge: unix, TCP and UDP over inet, netlink for routes and uevents.
/// MPTCP, SCTP and raw sockets meet other hooks than TCP does. `kind` is without flags; `icmp`: ping sockets too, which
/// send echo requests and nothing else (`ping_v4_sendmsg` in net/ipv4/ping.c).
#[inline(always)]
#[must_use]
pub const fn may_create_socket(family: i32, kind: i32, protocol: i32, icmp: bool) -> bool {
    match family {
        AF_INET if icmp && kind == SOCK_DGRAM && protocol == IPPROTO_ICMP => true,
        AF_INET6 if icmp && kind == SOCK_DGRAM && protocol == IPPROTO_ICMPV6 => true,
        AF_UNIX => true,
        AF_INET | AF_INET6 => {
            (kind == SOCK_STREAM || kind == SOCK_DGRAM)
                && (protocol == 0 || protocol == IPPROTO_TCP || protocol == IPPROTO_UDP)
        }
        AF_NETLINK => protocol == NETLINK_ROUTE || protocol == NETLINK_KOBJECT_UEVENT,
        _ => false,
    }
}

/// What decides who of many that listen on one port gets a connection: `SO_ATTACH_REUSEPORT_CBPF`, `…_EBPF`
/// (include/uapi/asm-generic/socket.h).
const REUSEPORT_PROGRAMS: [i32; 2] = [51, 52];
const SOL_SOCKET: i32 = 1;

/// May this option of a socket be set? Not one that sends packets by way of an address that no other layer judges, or has
/// them answered there; nor one by which a server outside gets what an own one would: look-ups don't ask it.
#[inline(always)]
#[must_use]
pub const fn may_set_option(level: i32, option: i32) -> bool {
    match level {
        IPPROTO_IP => option != IP_OPTIONS && option != IP_FREEBIND,
        SOL_SOCKET => option != REUSEPORT_PROGRAMS[0] && option != REUSEPORT_PROGRAMS[1],
        IPPROTO_IPV6 => {
            option != IPV6_ROUTES[0]
                && option != IPV6_ROUTES[1]
                && option != IPV6_ROUTES[2]
                && option != IPV6_FREEBIND
        }
        _ => true,
    }
}

/// Flags of mount(2) that make no new file system: `MS_REMOUNT`, `MS_BIND`, `MS_MOVE`, `MS_UNBINDABLE`, `MS_PRIVATE`,
/// `MS_SLAVE`, `MS_SHARED` (include/uapi/linux/mount.h; `path_mount` in fs/namespace.c looks at them in this order).
const NO_NEW_FILE_SYSTEM: u64 = 0x20 | 0x1000 | 0x2000 | 0x2_0000 | 0x4_0000 | 0x8_0000 | 0x10_0000;
/// File systems that hold nothing but what the sandbox puts there, or what it sees already.
const OWN_FILE_SYSTEMS: [[u8; 8]; 4] = [*b"tmpfs\0\0\0", *b"proc\0\0\0\0", *b"devpts\0\0", *b"mqueue\0\0"];

/// May this be mounted where namespaces are allowed? What is there already, at another place; and file systems of the
/// sandbox's own. Not what shows files of another one as its own (overlay), nor what a process answers for (FUSE).
/// `kind`: the type's name, with a NUL where it is shorter.
#[inline(always)]
#[must_use]
pub const fn may_mount(flags: u64, kind: [u8; 8]) -> bool {
    let kind = u64::from_ne_bytes(kind);
    flags & NO_NEW_FILE_SYSTEM != 0
        || kind == u64::from_ne_bytes(OWN_FILE_SYSTEMS[0])
        || kind == u64::from_ne_bytes(OWN_FILE_SYSTEMS[1])
        || kind == u64::from_ne_bytes(OWN_FILE_SYSTEMS[2])
        || kind == u64::from_ne_bytes(OWN_FILE_SYSTEMS[3])
}

/// `TIOCSTI` types into the terminal, `TIOCLINUX` pastes into it, `TIOCCONS` takes the console's output, `TIOCSETD` loads
/// line disciplines, `TIOCEXCL` keeps others from opening it for good (include/uapi/asm-generic/ioctls.h).
pub const TERMINAL_COMMANDS: [u32; 5] = [0x5412, 0x541c, 0x541d, 0x5423, 0x540c];
/// Commands of the virtual console, by their second byte: `K` maps keys to text, `V` switches and locks consoles
/// (include/uapi/linux/kd.h, vt.h).
pub const CONSOLE_COMMANDS: [u32; 2] = [0x4b00, 0x5600];
/// Makes a userfaultfd of `/dev/userfaultfd` (include/uapi/linux/userfaultfd.h).
pub const USERFAULTFD_IOC_NEW: u32 = 0xaa00;

/// May this command be sent to a terminal? Not one that acts for its user.
#[inline(always)]
#[must_use]
pub const fn may_command_terminal(command: u32) -> bool {
    let page = command & 0xffff_ff00;
    page != CONSOLE_COMMANDS[0]
        && page != CONSOLE_COMMANDS[1]
        && command != TERMINAL_COMMANDS[0]
        && command != TERMINAL_COMMANDS[1]
        && command != TERMINAL_COMMANDS[2]
        && command != TERMINAL_COMMANDS[3]
        && command != TERMINAL_COMMANDS[4]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_udp_unix_and_routes_are_all_there_is() {
        assert!(
            may_create_socket(AF_INET, SOCK_STREAM, 0, false)
                && may_create_socket(AF_INET6, SOCK_DGRAM, 17, false)
        );
        assert!(
            may_create_socket(AF_UNIX, 5, 0, false) && may_create_socket(AF_NETLINK, 3, NETLINK_ROUTE, false)
        );
        let allowed = (0..64).filter(|family| may_create_socket(*family, SOCK_STREAM, 0, true));
        assert!(allowed.eq([AF_UNIX, AF_INET, AF_INET6, AF_NETLINK]));
        // Raw, ICMP, SCTP, UDP-Lite, MPTCP.
        for (kind, protocol) in [(3, 6), (2, 1), (1, 132), (2, 136), (1, 262)] {
            assert!(!may_create_socket(AF_INET, kind, protocol, false), "{kind} {protocol}");
        }
        // Each family has its own ping, and there is no other way to it.
        for (family, kind, protocol) in
            [(AF_INET, 2, 58), (AF_INET6, 2, 1), (AF_INET, 3, 1), (AF_INET6, 3, 58)]
        {
            assert!(!may_create_socket(family, kind, protocol, true), "{family} {kind} {protocol}");
        }
        assert!(may_create_socket(AF_INET, 2, 1, true) && may_create_socket(AF_INET6, 2, 58, true));
    }

    #[test]
    fn a_route_of_the_senders_own_is_refused_at_its_level_alone() {
        assert!(!may_set_option(IPPROTO_IP, IP_OPTIONS) && may_set_option(IPPROTO_TCP, IP_OPTIONS));
        assert!(!may_set_option(IPPROTO_IP, IP_FREEBIND) && !may_set_option(IPPROTO_IPV6, IPV6_FREEBIND));
        assert!(IPV6_ROUTES.iter().all(|option| !may_set_option(IPPROTO_IPV6, *option)));
        assert!(REUSEPORT_PROGRAMS.iter().all(|option| !may_set_option(SOL_SOCKET, *option)));
    }

    #[test]
    fn what_is_mounted_is_there_already_or_the_sandboxs_own() {
        let kind = |name: &str| {
            let mut kind = [0; 8];
            kind[..name.len()].copy_from_slice(name.as_bytes());
            kind
        };
        for name in ["tmpfs", "proc", "devpts", "mqueue"] {
            assert!(may_mount(0, kind(name)), "{name}");
            assert!(may_mount(0xc0ed_0000, kind(name)), "{name} with MS_MGC_VAL");
        }
        for name in ["", "overlay", "fuse", "fuse.x", "ramfs", "sysfs", "cgroup2", "bpf", "tmpfsx", "pro"] {
            assert!(!may_mount(2 | 4 | 8, kind(name)), "{name}");
        }
        // A bind, with all below it; what a remount changes; where mounts propagate to.
        for flags in [0x1000, 0x5000, 0x1020, 0x20, 0x8_4000, 0x4_0000] {
            assert!(may_mount(flags, [0; 8]), "{flags:x}");
        }
    }

    #[test]
    fn what_a_program_asks_a_terminal_for_is_allowed() {
        // TCGETS, TCSETS, TIOCGWINSZ, TIOCSPGRP, FIONREAD, TIOCGPTPEER
        for command in [0x5401, 0x5402, 0x5413, 0x5410, 0x541b, 0x5441] {
            assert!(may_command_terminal(command), "{command:x}");
        }
        // KDSKBENT, KDSKBSENT, VT_ACTIVATE, VT_LOCKSWITCH
        for command in [0x4b47, 0x4b49, 0x5606, 0x560b, 0x5412, 0x540c] {
            assert!(!may_command_terminal(command), "{command:x}");
        }
    }
}
