//! Egress at the cgroup: `connect(2)` and datagrams to an address.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::bpf_sock, btf_maps::lpm_trie::Key, macros::cgroup_sock_addr, programs::SockAddrContext,
};
use govsandbox_ebpf::{
    abi::{
        egress::{DNS_PORT, EgressKey},
        event::{EventRecord, RecordKind},
    },
    decide::{
        Decision,
        egress::{Way, Words, decide_echo, is_loopback, is_v4, route_egress},
    },
};

use super::conclude;
use crate::kernel::{
    emit,
    lead::{self, AF_INET, IPPROTO_TCP, IPPROTO_UDP, LOCALHOST4, LOCALHOST6},
    maps,
    socket::{self, ASKS, Ends, LED, OWN, Receiver, SocketTag, mapped, octets},
    subject::{self, Subject},
};

pub(super) const AF_INET6: u16 = 10;
/// Bits of a whole key: sandbox and address.
const KEY_BITS: u32 = 32 + 128;
/// Verdicts of a sock_addr program.
const PASS: i32 = 1;
const REFUSE: i32 = 0;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, AF_INET)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, AF_INET6)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    send(&ctx, AF_INET)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    send(&ctx, AF_INET6)
}

/// Whoever asks for the address of a name connects datagram sockets to it and sends nothing (RFC 6724 in getaddrinfo(3)):
/// such a connect is let through, and what is sent is judged packet by packet.
#[inline(always)]
fn connect(ctx: &SockAddrContext, family: u16) -> i32 {
    let Some(subject) = subject::current_member() else { return PASS };
    if subject.config.orphaned != 0 {
        return REFUSE;
    }
    let mut record = MaybeUninit::<EventRecord>::uninit();
    let record = record.as_mut_ptr();
    // SAFETY: the record is this program's own; the verifier checks which fields of the context may be read and written.
    unsafe {
        let tag = socket::used_by(ctx, &subject);
        if tag.is_null() {
            return REFUSE;
        }
        subject.begin(record, RecordKind::Connect);
        let (address, port) = (named(ctx, family), u16::from_be((*ctx.sock_addr).user_port as u16));
        describe(ctx, record, family, address, port);
        let protocol = (*record).protocol;
        if (*tag).flags & LED != 0 {
            lead::forget(ctx);
        }
        let service = lead::service_of(subject.sandbox_id);
        let mut decision = Decision::DENY_DEFAULT;
        let mut flags = 0;
        if let Some(service) = service.filter(|_| is_query(protocol, port)) {
            if lead::query(ctx, service, record, (family, address)) {
                SocketTag::connect(tag, record, address, LED | ASKS);
                return PASS; // the service tells what was asked
            }
        } else {
            let way;
            (decision, way) = judge(&subject, address, port, protocol);
            if decision.allow && matches!(way, Way::Relay) {
                (*record).rule = decision.rule;
                match service {
                    Some(service) if lead::relay(ctx, service, record, (family, address)) => flags = LED,
                    _ => decision = Decision::DENY_DEFAULT,
                }
            } else if !decision.allow && decision.rule == 0 && protocol == IPPROTO_TCP {
                let ends = ends(ctx, family, address, port);
                let exactly = !is_loopback(address);
                if socket::receiver(ctx, &ends, true, exactly, subject.sandbox_id) == Receiver::Own {
                    decision = Decision::ALLOW;
                    flags = OWN;
                }
            }
            if !decision.allow && protocol != IPPROTO_TCP {
                SocketTag::connect(tag, record, address, 0);
                return PASS;
            }
        }
        let refuse = conclude(&subject, decision, false, record);
        emit::bare(ctx, &subject, record);
        if refuse {
            return REFUSE;
        }
        SocketTag::connect(tag, record, address, flags);
        PASS
    }
}

/// What is not allowed is let through here, and refused as a packet: there both ends are known.
#[inline(always)]
fn send(ctx: &SockAddrContext, family: u16) -> i32 {
    let Some(subject) = subject::current_member() else { return PASS };
    if subject.config.orphaned != 0 {
        return REFUSE;
    }
    let mut record = MaybeUninit::<EventRecord>::uninit();
    let record = record.as_mut_ptr();
    // SAFETY: as in `connect`.
    unsafe {
        let tag = socket::used_by(ctx, &subject);
        if tag.is_null() {
            return REFUSE;
        }
        subject.begin(record, RecordKind::Send);
        let named_port = u16::from_be((*ctx.sock_addr).user_port as u16);
        let (address, port) = match named_port {
            // No datagram has port 0: this one names nobody, and goes to whom its socket is connected to.
            0 => peer(ctx, family),
            port => (named(ctx, family), port),
        };
        describe(ctx, record, family, address, port);
        let protocol = (*record).protocol;
        if let Some(service) = lead::service_of(subject.sandbox_id) {
            if lead::service_number(service, address, port).is_some() {
                return PASS; // a socket that was led there, with ancillary data
            }
            if named_port != 0 && is_query(protocol, port) {
                if lead::query(ctx, service, record, (family, address)) {
                    return PASS;
                }
                let refuse = conclude(&subject, Decision::DENY_DEFAULT, false, record);
                emit::bare(ctx, &subject, record);
                return if refuse { REFUSE } else { PASS };
            }
        }
        let (decision, _) = judge(&subject, address, port, protocol);
        if decision.allow {
            conclude(&subject, decision, false, record);
            emit::bare(ctx, &subject, record);
        }
        PASS
    }
}

#[inline(always)]
fn is_query(protocol: u16, port: u16) -> bool {
    port == DNS_PORT && (protocol == IPPROTO_UDP || protocol == IPPROTO_TCP)
}

#[inline(always)]
unsafe fn describe(ctx: &SockAddrContext, record: *mut EventRecord, family: u16, address: Words, port: u16) {
    // SAFETY: as in `connect`.
    unsafe {
        (*record).address = octets(address);
        (*record).port = port;
        (*record).family = family;
        (*record).protocol = (*ctx.sock_addr).protocol as u16;
    }
}

/// What the rules of the subject's sandbox say of a destination.
#[inline(always)]
pub(super) fn judge(subject: &Subject, address: Words, port: u16, protocol: u16) -> (Decision, Way) {
    let key = EgressKey { sandbox_id_be: subject.sandbox_id.to_be_bytes(), address: octets(address) };
    let key = Key::new(KEY_BITS, key);
    route_egress(maps::EGRESS.get(&key), port, protocol as u8)
}

/// The same, of an echo request.
#[inline(always)]
pub(super) fn echo(subject: &Subject, address: Words) -> Decision {
    let key = EgressKey { sandbox_id_be: subject.sandbox_id.to_be_bytes(), address: octets(address) };
    decide_echo(maps::EGRESS.get(&Key::new(KEY_BITS, key)), subject.config.icmp == 1)
}

/// Both ends of the connection that is asked for. What is not bound yet is taken for loopback, as the kernel does where the
/// destination is.
#[inline(always)]
unsafe fn ends(ctx: &SockAddrContext, family: u16, address: Words, to_port: u16) -> Ends {
    // SAFETY: as in `connect`; the socket is the context's.
    unsafe {
        let socket: *const bpf_sock = (*ctx.sock_addr).__bindgen_anon_1.sk;
        let v4 = family == AF_INET || is_v4(address);
        let own = socket::bound_to(socket, v4);
        let to = if is_loopback(address) && address[3] == 0 {
            match (own[3] == 0, v4) {
                (false, _) => own,
                (true, true) => mapped(LOCALHOST4),
                (true, false) => LOCALHOST6,
            }
        } else {
            address
        };
        Ends { from: own, to, from_port: 0, to_port }
    }
}

/// The address that the caller names.
#[inline(always)]
pub(super) unsafe fn named(ctx: &SockAddrContext, family: u16) -> Words {
    // SAFETY: as in `connect`.
    unsafe {
        if family == AF_INET {
            return mapped((*ctx.sock_addr).user_ip4);
        }
        [
            (*ctx.sock_addr).user_ip6[0],
            (*ctx.sock_addr).user_ip6[1],
            (*ctx.sock_addr).user_ip6[2],
            (*ctx.sock_addr).user_ip6[3],
        ]
    }
}

/// The address and port that the socket is connected to; the unspecified one and 0 without a socket.
#[inline(always)]
unsafe fn peer(ctx: &SockAddrContext, family: u16) -> (Words, u16) {
    // SAFETY: as in `connect`; the socket is the context's.
    unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if socket.is_null() {
            return ([0; 4], 0);
        }
        let address = if family == AF_INET {
            mapped((*socket).dst_ip4)
        } else {
            [(*socket).dst_ip6[0], (*socket).dst_ip6[1], (*socket).dst_ip6[2], (*socket).dst_ip6[3]]
        };
        (address, u16::from_be((*socket).dst_port))
    }
}
