//! Packets that leave: what no rule allows, by whatever way it got here.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::bpf_sock, helpers::generated::bpf_sk_fullsock, macros::cgroup_skb, programs::SkBuffContext,
};
use govsandbox_ebpf::{
    abi::event::{EventRecord, RecordKind},
    decide::{
        Decision,
        egress::{Words, is_loopback, is_v4},
    },
};

use super::{
    conclude,
    connect::{AF_INET6, echo, judge},
};
use crate::kernel::{
    emit, flow,
    lead::{self, AF_INET, IPPROTO_TCP, IPPROTO_UDP},
    maps,
    socket::{self, DEAD, Ends, LED, LOOPBACK, OWN, Receiver, SocketTag, mapped, octets},
    subject::{self, Subject},
};

/// Verdicts of a packet's program.
pub(super) const PASS: i32 = 1;
pub(super) const DROP: i32 = 0;
/// IGMP (RFC 3376) has an option in each packet, and the kernel sends it.
const IPPROTO_IGMP: u8 = 2;
/// Headers that may stand before that of the protocol (RFC 8200, 4.1). Whoever has no privilege sets a routing header, and
/// none before it.
const IPPROTO_HOPOPTS: u8 = 0;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_FRAGMENT: u8 = 44;
const IPPROTO_DSTOPTS: u8 = 60;
/// So many are looked behind; the specification has four, each once or twice.
const HEADERS_MAX: u32 = 8;
/// Of a fragment's header: where in the whole it lies, and that others follow (RFC 8200, 4.5).
const FRAGMENT_OF_MORE: u16 = 0xfff9;
pub(super) const TCP: u8 = IPPROTO_TCP as u8;
pub(super) const UDP: u8 = IPPROTO_UDP as u8;
/// Of IPv4 and IPv6.
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_ICMPV6: u8 = 58;
/// include/linux/net.h
const SOCK_DGRAM: u32 = 2;
/// The length of the header of IPv6, without options.
const HEADER6: usize = 40;
/// Flags of TCP (RFC 9293, 3.1), and where they stand.
const TCP_FLAGS: usize = 13;
const TCP_OFFSET: usize = 12;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// What is known of a packet.
#[derive(Clone, Copy)]
pub(super) struct Packet {
    pub(super) family: u16,
    pub(super) protocol: u8,
    /// Where the header of its protocol begins.
    begin: usize,
    /// It chooses its own route, or has other options.
    routed: bool,
}

/// Connections are judged when they are asked for; here it is held that those to the service and to own sockets stay on
/// this machine. Datagrams are judged here, each: a connect of theirs sends nothing, and source routes come with
/// ancillary data (`IP_RETOPTS`, `IPV6_RTHDR` of cmsg(3)), after `sendmsg4` and `sendmsg6` were asked.
#[cgroup_skb(egress)]
pub fn packet_out(ctx: SkBuffContext) -> i32 {
    // SAFETY: the verifier checks which fields of the context may be read.
    let socket = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        return PASS;
    }
    // SAFETY: not null; the tag lives as long as its socket, which the packet holds.
    let tag = unsafe { maps::SOCKETS.get(socket) };
    let Some(packet) = read(&ctx) else { return PASS };
    // SAFETY: as above.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    if tag.is_null() {
        return of_stranger(&ctx, &packet, socket, device);
    }
    // SAFETY: as above.
    let (sandbox_id, flags, protocol) = unsafe { ((*tag).sandbox_id, (*tag).flags, (*tag).protocol) };
    // By the socket, not by the packet: where the machine encrypts (xfrm), or joins packets to a jumbogram (RFC 2675),
    // what leaves here is of another protocol.
    if protocol == IPPROTO_TCP && !packet.routed {
        if flags & (LED | OWN | DEAD) == 0 {
            return PASS;
        }
        if flags & DEAD != 0 {
            return if is_bare(&ctx, &packet) { PASS } else { DROP };
        }
        if device != LOOPBACK {
            return DROP;
        }
        if packet.protocol != TCP || !is_first(&ctx, &packet) {
            return PASS;
        }
        let Some(ends) = ends(&ctx, &packet) else { return DROP };
        if is_forged(&ends) {
            return DROP;
        }
        // SAFETY: such a program may look up sockets.
        let arrives =
            || unsafe { socket::receiver(&ctx, &ends, true, false, sandbox_id) } != Receiver::Foreign;
        return if flags & OWN == 0 || arrives() { PASS } else { DROP };
    }
    // Another sandbox may have it by now: what is sent is judged by who sends.
    let subject = Subject::here(subject::member().unwrap_or(sandbox_id));
    if subject.config.orphaned != 0 {
        return DROP;
    }
    judge_datagram(&ctx, &packet, &subject, tag, device)
}

/// Of a socket without a tag: one that was made outside. A member may have it still, and send by it.
#[inline(always)]
fn of_stranger(ctx: &SkBuffContext, packet: &Packet, socket: *mut bpf_sock, device: u32) -> i32 {
    let is_datagram = packet.protocol == UDP || (is_echo(packet) && is_of_datagrams(socket));
    if !is_datagram && !packet.routed {
        return PASS;
    }
    let Some(subject) = subject::current_member() else {
        if device == LOOPBACK && packet.protocol == UDP && !packet.routed {
            if let Some(ends) = ends(ctx, packet) {
                note_asked(ctx, &ends, 0);
            }
        }
        return PASS;
    };
    if subject.config.orphaned != 0 {
        return DROP;
    }
    judge_datagram(ctx, packet, &subject, core::ptr::null_mut(), LOOPBACK + 1)
}

#[inline(always)]
fn judge_datagram(
    ctx: &SkBuffContext,
    packet: &Packet,
    subject: &Subject,
    tag: *mut SocketTag,
    device: u32,
) -> i32 {
    let Some(ends) = ends(ctx, packet) else { return DROP };
    let mut decision = Decision::DENY_DEFAULT;
    if packet.protocol == UDP && !packet.routed && !is_forged(&ends) {
        let is_here = device == LOOPBACK;
        let far = (ends.to, ends.to_port, flow::by(device));
        if let Some(service) = lead::service_of(subject.sandbox_id) {
            if is_here && lead::service_number(service, ends.to, ends.to_port).is_some() {
                return PASS;
            }
        }
        decision = blurred(ctx, judge(subject, ends.to, ends.to_port, IPPROTO_UDP).0);
        if decision.allow {
            if !is_for_many(ends.to) {
                // SAFETY: a tag lives as long as its socket.
                unsafe { flow::note(tag, subject.sandbox_id, far) };
                if is_here {
                    note_asked(ctx, &ends, subject.sandbox_id);
                }
            }
            return PASS;
        }
        if decision.rule == 0 && !is_for_many(ends.to) {
            // SAFETY: as above; such a program may look up sockets.
            let goes_on = unsafe {
                flow::goes_on(tag, subject.sandbox_id, far)
                    || is_here
                        && socket::receiver(ctx, &ends, false, false, subject.sandbox_id) == Receiver::Own
            };
            if goes_on {
                return PASS;
            }
        }
    } else if is_ping(packet, tag) && !packet.routed && !is_forged(&ends) {
        decision = match device == LOOPBACK && is_loopback(ends.to) {
            true => return PASS,
            false => echo(subject, ends.to),
        };
    }
    let mut record = MaybeUninit::<EventRecord>::uninit();
    let record = record.as_mut_ptr();
    // SAFETY: the record is this program's own; the context is the packet's; a tag lives as long as its socket.
    unsafe {
        subject.begin_as(record, RecordKind::Send, ctx.get_socket_uid());
        (*record).address = octets(ends.to);
        (*record).port = ends.to_port;
        (*record).family = packet.family;
        (*record).protocol = u16::from(packet.protocol);
        let refuse = conclude(subject, decision, false, record);
        if refuse || tag.is_null() || SocketTag::is_news(tag, ends.to, ends.to_port) {
            emit::bare(ctx, subject, record);
        }
        if refuse { DROP } else { PASS }
    }
}

/// A datagram over loopback is about to arrive at a server: if that is a sandbox's, and not the sender's own
/// (`sender_id`; 0: of none), it may answer. Whoever sends is known here, and not where it arrives: what a sandbox sends to
/// itself, from whatever address, opens no way.
#[inline(always)]
fn note_asked(ctx: &SkBuffContext, ends: &Ends, sender_id: u32) {
    if is_for_many(ends.to) || is_forged(ends) {
        return;
    }
    // SAFETY: such a program may look up sockets.
    unsafe { flow::note_at_receiver(ctx, ends, sender_id) };
}

/// The same decision. To the verifier each way to one is a state of its own, and all that comes behind is followed again for
/// each: of a number that depends on the packet's length, which no packet's does, it knows as much whatever the way.
#[inline(always)]
fn blurred(ctx: &SkBuffContext, decision: Decision) -> Decision {
    let nothing = u64::from(ctx.len() >> 31);
    let (mut allow, mut rule) = (u64::from(decision.allow), u64::from(decision.rule));
    // SAFETY: changes the two registers that it names.
    unsafe {
        core::arch::asm!("{0} ^= {2}", "{1} ^= {2}", inout(reg) allow, inout(reg) rule, in(reg) nothing);
    }
    Decision { allow: allow != 0, rule: rule as u16 }
}

/// Was it sent by a ping socket? Its kind is what the policy lets be made.
#[inline(always)]
fn is_ping(packet: &Packet, tag: *const SocketTag) -> bool {
    // SAFETY: a tag lives as long as its socket, which the packet holds.
    let is_sockets = || unsafe { (*tag).protocol == u16::from(packet.protocol) };
    is_echo(packet) && !tag.is_null() && is_sockets()
}

/// Pings are sent at once, as datagrams are. What the kernel answers itself comes from raw sockets.
#[inline(always)]
fn is_of_datagrams(socket: *mut bpf_sock) -> bool {
    // SAFETY: the context's socket, which is not null; what the helper gives is null or whole.
    unsafe {
        let socket = bpf_sk_fullsock(socket);
        !socket.is_null() && (*socket).type_ == SOCK_DGRAM
    }
}

#[inline(always)]
fn is_echo(packet: &Packet) -> bool {
    packet.protocol == IPPROTO_ICMP || packet.protocol == IPPROTO_ICMPV6
}

/// May more than one socket get it? Then what a look-up finds says nothing.
#[inline(always)]
pub(super) fn is_for_many(to: Words) -> bool {
    let first = u32::from_be(to[0]);
    let v4 = u32::from_be(to[3]);
    match is_v4(to) {
        // RFC 1112, 4; and the broadcast addresses of loopback and of all.
        true => v4 >> 28 == 0xe || v4 == 0x7fff_ffff || v4 == u32::MAX,
        false => first >> 24 == 0xff,
    }
}

/// Does it carry nothing? The upper half of the byte is the header's length in words of four bytes (RFC 9293, 3.1).
#[inline(always)]
fn is_bare(ctx: &SkBuffContext, packet: &Packet) -> bool {
    let words = ctx.load::<u8>(packet.begin + TCP_OFFSET).map_or(0, |byte| byte >> 4);
    packet.protocol == TCP && packet.begin + usize::from(words) * 4 >= ctx.len() as usize
}

/// Does it ask for a connection of TCP?
#[inline(always)]
pub(super) fn is_first(ctx: &SkBuffContext, packet: &Packet) -> bool {
    ctx.load::<u8>(packet.begin + TCP_FLAGS).unwrap_or(SYN) & (SYN | ACK) == SYN
}

/// Does it go to ::1 and say that it comes from elsewhere? Whoever answers it would send there.
#[inline(always)]
fn is_forged(ends: &Ends) -> bool {
    !is_v4(ends.to) && is_loopback(ends.to) && !is_loopback(ends.from)
}

/// What a packet says at its beginning; `None`: it is of neither family.
#[inline(always)]
pub(super) fn read(ctx: &SkBuffContext) -> Option<Packet> {
    let first = ctx.load::<u8>(0).ok()?;
    Some(match first {
        0x45..=0x4f => {
            let protocol = ctx.load(9).ok()?;
            let routed = first != 0x45 && protocol != IPPROTO_IGMP;
            // In words of four bytes (RFC 791, 3.1).
            Packet { family: AF_INET, protocol, begin: usize::from(first & 0xf) * 4, routed }
        }
        0x60..=0x6f => {
            let protocol = ctx.load(6).ok()?;
            Packet { family: AF_INET6, protocol, begin: HEADER6, routed: protocol == IPPROTO_ROUTING }
        }
        _ => return None,
    })
}

/// The same, behind all headers that stand before its protocol's; `None`: that can't be found.
#[inline(always)]
pub(super) fn read_through(ctx: &SkBuffContext, mut packet: Packet) -> Option<Packet> {
    if packet.family == AF_INET {
        return Some(packet);
    }
    let mut count = 0;
    while count < HEADERS_MAX {
        let length = match packet.protocol {
            IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_DSTOPTS => {
                (usize::from(ctx.load::<u8>(packet.begin + 1).ok()?) + 1) * 8
            }
            IPPROTO_FRAGMENT => match ctx.load::<u16>(packet.begin + 2).ok()? & FRAGMENT_OF_MORE.to_be() {
                0 => 8,
                _ => return None,
            },
            _ => return Some(packet),
        };
        packet.protocol = ctx.load(packet.begin).ok()?;
        packet.begin += length;
        count += 1;
    }
    None
}

/// Where it comes from and goes to; ports where it has such.
#[inline(always)]
pub(super) fn ends(ctx: &SkBuffContext, packet: &Packet) -> Option<Ends> {
    let (from, to) = if packet.family == AF_INET {
        (mapped(ctx.load(12).ok()?), mapped(ctx.load(16).ok()?))
    } else {
        (ctx.load(8).ok()?, ctx.load(24).ok()?)
    };
    let has_ports = packet.protocol == TCP || packet.protocol == UDP;
    let port = |at| match has_ports {
        true => ctx.load::<u16>(packet.begin + at).map_or(0, u16::from_be),
        false => 0,
    };
    Some(Ends { from, to, from_port: port(0), to_port: port(2) })
}
