//! Packets that leave: those that a route of the sender's own leads elsewhere than to the address that was judged.

use core::mem::MaybeUninit;

use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};
use govsandbox_ebpf::{
    abi::event::{EventRecord, RecordKind},
    decide::{Decision, egress::v4_mapped},
};

use super::{
    conclude,
    connect::{AF_INET, AF_INET6, in_order},
};
use crate::kernel::{emit, subject};

/// Verdicts of a packet's program.
const PASS: i32 = 1;
const DROP: i32 = 0;
/// IGMP (RFC 3376) has an option in each packet, and the kernel sends it.
const IPPROTO_IGMP: u8 = 2;
/// A routing header follows (RFC 8200, 4.4). Whoever has no privilege sets no header before it.
const IPPROTO_ROUTING: u8 = 43;

/// Source routes come with a datagram (`IP_RETOPTS`, `IPV6_RTHDR` of cmsg(3)), after `sendmsg4` and `sendmsg6` were asked;
/// setsockopt(2) sets none. So nothing with options of IPv4, or a routing header, leaves a sandbox.
#[cgroup_skb(egress)]
pub fn packet_out(ctx: SkBuffContext) -> i32 {
    let Ok(first) = ctx.load::<u8>(0) else { return PASS };
    let family = match first {
        0x45 => return PASS,
        0x46..=0x4f if ctx.load::<u8>(9) != Ok(IPPROTO_IGMP) => AF_INET,
        0x60..=0x6f if ctx.load::<u8>(6) == Ok(IPPROTO_ROUTING) => AF_INET6,
        _ => return PASS,
    };
    let Some(subject) = subject::current_member() else { return PASS };
    if subject.config.orphaned != 0 {
        return DROP;
    }
    let mut record = MaybeUninit::<EventRecord>::uninit();
    let record = record.as_mut_ptr();
    // SAFETY: the record is this program's own; the context is the packet's.
    unsafe {
        subject.begin_as(record, RecordKind::Send, ctx.get_socket_uid());
        (*record).address = if family == AF_INET {
            v4_mapped(ctx.load::<[u8; 4]>(16).unwrap_or_default())
        } else {
            in_order(ctx.load::<[u32; 4]>(24).unwrap_or_default())
        };
        (*record).family = family;
        (*record).protocol = u16::from(ctx.load::<u8>(9).unwrap_or_default());
        let refuse = conclude(&subject, Decision::DENY_DEFAULT, false, record);
        emit::bare(&ctx, &subject, record);
        if refuse { DROP } else { PASS }
    }
}
