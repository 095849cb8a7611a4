//! Sockets that no layer judges, and routes that lead past one that does.

use crate::{
    attempt::{Attempt, Class, MISSING, Told},
    sys::{call, owned},
};

const TOLD: Told = Told::Event { kind: "privilege.use", rule: "builtin/sockets", about: "" };

/// Name, what it is, family, type, protocol, and whether root alone may make it outside.
type Socket = (&'static str, &'static str, i32, i32, i32, bool);

const SOCKETS: [Socket; 21] = [
    ("packet", "frames of the wire", libc::AF_PACKET, libc::SOCK_RAW, 0x300, true),
    ("raw-tcp", "segments made by hand", libc::AF_INET, libc::SOCK_RAW, 6, true),
    ("raw6", "the same over IPv6", libc::AF_INET6, libc::SOCK_RAW, 58, true),
    ("sctp", "SCTP", libc::AF_INET, libc::SOCK_STREAM, 132, false),
    ("udplite", "UDP-Lite", libc::AF_INET, libc::SOCK_DGRAM, 136, false),
    ("dccp", "DCCP, CVE-2017-6074", libc::AF_INET, 6, 33, false),
    ("alg", "the kernel's ciphers, CVE-2025-39964", libc::AF_ALG, libc::SOCK_SEQPACKET, 0, false),
    ("vsock", "the host of this machine", libc::AF_VSOCK, libc::SOCK_STREAM, 0, false),
    ("netlink-diag", "the sockets of others", libc::AF_NETLINK, libc::SOCK_RAW, 4, false),
    ("netlink-xfrm", "the kernel's tunnels", libc::AF_NETLINK, libc::SOCK_RAW, 6, false),
    ("netlink-audit", "the kernel's audit", libc::AF_NETLINK, libc::SOCK_RAW, 9, false),
    ("netlink-filter", "packet filters, CVE-2022-32250", libc::AF_NETLINK, libc::SOCK_RAW, 12, false),
    ("netlink-generic", "generic netlink", libc::AF_NETLINK, libc::SOCK_RAW, 16, false),
    ("key", "keys of tunnels", 15, libc::SOCK_RAW, 2, true),
    ("xdp", "frames past the stack", 44, libc::SOCK_RAW, 0, true),
    ("bluetooth", "radio", 31, libc::SOCK_RAW, 1, false),
    ("tipc", "TIPC, CVE-2021-43267", 30, libc::SOCK_STREAM, 0, false),
    ("rds", "RDS, CVE-2010-3904", 21, libc::SOCK_SEQPACKET, 0, false),
    ("smc", "SMC", 43, libc::SOCK_STREAM, 0, false),
    ("can", "the bus of a car", 29, libc::SOCK_RAW, 1, false),
    ("x25", "X.25", 9, libc::SOCK_SEQPACKET, 0, false),
];

fn new(name: &str, what: &'static str, source: &'static str) -> Attempt {
    Attempt::new(format!("sockets-{name}"), Class::Egress, what, source).told(TOLD)
}

pub(crate) fn attempts() -> Vec<Attempt> {
    let sockets = SOCKETS.into_iter().map(|(name, what, family, kind, protocol, root)| {
        let attempt = new(name, what, "socket(2)").where_there();
        let attempt = if root { attempt.control_by_root() } else { attempt };
        attempt
            .acts(move |_| {
                let made = call!(libc::SYS_socket, family, kind | libc::SOCK_CLOEXEC, protocol)?;
                drop(owned(made));
                Ok(String::new())
            })
            .refused(&[libc::EPERM, libc::EAFNOSUPPORT])
    });
    let mut all: Vec<Attempt> = sockets.collect();
    all.push(
        new("mptcp", "TCP over many ways", "mptcp(7)")
            .where_there()
            .acts(|_| {
                let made = call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 262)?;
                drop(owned(made));
                Ok(String::new())
            })
            .refused(&[libc::EPROTONOSUPPORT])
            .told(MISSING),
    );
    for (name, family, level, option, value) in [
        // A loose route by way of 10.78.0.1 (RFC 791), padded.
        ("route", libc::AF_INET, libc::IPPROTO_IP, 4, [0x83_u8, 7, 4, 10, 78, 0, 1, 0]),
        // A routing header of no segments (RFC 8200, 4.4).
        ("route6", libc::AF_INET6, libc::IPPROTO_IPV6, 57, [0; 8]),
    ] {
        all.push(
            new(name, "packets by way of an address of one's own", "ip(7), ipv6(7)").control_by_root().acts(
                move |_| {
                    let socket = owned(call!(libc::SYS_socket, family, libc::SOCK_DGRAM, 0)?);
                    use std::os::fd::AsRawFd;
                    let answer = call!(
                        libc::SYS_setsockopt,
                        socket.as_raw_fd(),
                        level,
                        option,
                        value.as_ptr(),
                        value.len()
                    );
                    crate::privileges::past(answer, &[libc::EINVAL])
                },
            ),
        );
    }
    all
}
