//! Egress at the cgroup: `connect(2)` and datagrams to an address.

use core::mem::MaybeUninit;

use aya_ebpf::{btf_maps::lpm_trie::Key, macros::cgroup_sock_addr, programs::SockAddrContext};
use govsandbox_ebpf::{
    abi::{
        event::{EventRecord, RecordKind},
        rule::EgressKey,
    },
    decide::egress::{decide_egress, v4_mapped},
};

use super::conclude;
use crate::kernel::{emit, maps, subject};

pub(super) const AF_INET: u16 = 2;
pub(super) const AF_INET6: u16 = 10;
/// Bits of a whole key: sandbox and address.
const KEY_BITS: u32 = 32 + 128;
/// Verdicts of a sock_addr program.
const PASS: i32 = 1;
const REFUSE: i32 = 0;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    judge(&ctx, RecordKind::Connect, AF_INET)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, RecordKind::Connect, AF_INET6)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    judge(&ctx, RecordKind::Send, AF_INET)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, RecordKind::Send, AF_INET6)
}

#[inline(always)]
fn judge(ctx: &SockAddrContext, kind: RecordKind, family: u16) -> i32 {
    let Some(subject) = subject::current_member() else { return PASS };
    if subject.config.orphaned != 0 {
        return REFUSE;
    }
    let mut record = MaybeUninit::<EventRecord>::uninit();
    let record = record.as_mut_ptr();
    // SAFETY: the record is this program's own; the verifier checks which fields of the context may be read.
    unsafe {
        subject.begin(record, kind);
        let (address, port) = match u16::from_be((*ctx.sock_addr).user_port as u16) {
            // No datagram has port 0: this one names nobody, and goes to whom its socket is connected to.
            0 if matches!(kind, RecordKind::Send) => peer(ctx, family),
            port => (named(ctx, family), port),
        };
        let protocol = (*ctx.sock_addr).protocol as u16;
        (*record).address = address;
        (*record).port = port;
        (*record).family = family;
        (*record).protocol = protocol;

        let key = Key::new(KEY_BITS, EgressKey { sandbox_id_be: subject.sandbox_id.to_be_bytes(), address });
        let decision = decide_egress(maps::EGRESS.get(&key), port, protocol as u8);
        let refuse = conclude(&subject, decision, false, record);
        emit::bare(ctx, &subject, record);
        if refuse { REFUSE } else { PASS }
    }
}

/// The address that the caller names.
#[inline(always)]
unsafe fn named(ctx: &SockAddrContext, family: u16) -> [u8; 16] {
    // SAFETY: as in `judge`.
    unsafe {
        if family == AF_INET {
            return v4_mapped((*ctx.sock_addr).user_ip4.to_ne_bytes());
        }
        in_order([
            (*ctx.sock_addr).user_ip6[0],
            (*ctx.sock_addr).user_ip6[1],
            (*ctx.sock_addr).user_ip6[2],
            (*ctx.sock_addr).user_ip6[3],
        ])
    }
}

/// The address and port that the socket is connected to; the unspecified one and 0 without a socket.
#[inline(always)]
unsafe fn peer(ctx: &SockAddrContext, family: u16) -> ([u8; 16], u16) {
    // SAFETY: as in `judge`; the socket is the context's.
    unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if socket.is_null() {
            return ([0; 16], 0);
        }
        let address = if family == AF_INET {
            v4_mapped((*socket).dst_ip4.to_ne_bytes())
        } else {
            in_order([(*socket).dst_ip6[0], (*socket).dst_ip6[1], (*socket).dst_ip6[2], (*socket).dst_ip6[3]])
        };
        (address, u16::from_be((*socket).dst_port))
    }
}

/// Words of an address as they lie in memory.
#[inline(always)]
pub(super) fn in_order(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: any bytes are an address.
    unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) }
}
