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

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
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
        let address = if family == AF_INET {
            v4_mapped((*ctx.sock_addr).user_ip4.to_ne_bytes())
        } else {
            let words = [
                (*ctx.sock_addr).user_ip6[0],
                (*ctx.sock_addr).user_ip6[1],
                (*ctx.sock_addr).user_ip6[2],
                (*ctx.sock_addr).user_ip6[3],
            ];
            core::mem::transmute::<[u32; 4], [u8; 16]>(words)
        };
        let port = u16::from_be((*ctx.sock_addr).user_port as u16);
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
