//! Sockets that a sandbox makes: each gets a tag, and there are none but of TCP, UDP and, where the policy says so, ping.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext, helpers::generated::bpf_get_socket_cookie, macros::cgroup_sock, programs::SockContext,
};
use govsandbox_ebpf::{
    abi::event::{EventRecord, RecordKind},
    decide::privilege::may_create_socket,
};

use crate::kernel::{maps, socket::SocketTag, subject};

/// Verdicts of a program at the creation of a socket.
const PASS: i32 = 1;
const REFUSE: i32 = 0;

/// Sockets of IPv4 and IPv6 alone come here. What the filter and the hook refuse before is told there.
#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    let Some(subject) = subject::current_member() else { return PASS };
    if subject.config.orphaned != 0 {
        return REFUSE;
    }
    // SAFETY: the context is the socket; its tag lives as long; the record is this program's own.
    unsafe {
        let (family, kind) = ((*ctx.sock).family as i32, (*ctx.sock).type_ as i32);
        let protocol = (*ctx.sock).protocol;
        if subject.config.audit_mode == 0
            && !may_create_socket(family, kind, protocol as i32, subject.config.icmp != 0)
        {
            return REFUSE;
        }
        let tag = maps::SOCKETS.get_or_create(ctx.sock);
        if tag.is_null() {
            return REFUSE;
        }
        let mut record = MaybeUninit::<EventRecord>::uninit();
        subject.begin(record.as_mut_ptr(), RecordKind::Listen);
        SocketTag::used(tag, record.as_ptr());
        (*tag).sandbox_id = subject.sandbox_id;
        (*tag).cookie = bpf_get_socket_cookie(ctx.as_ptr());
        (*tag).protocol = protocol as u16;
    }
    PASS
}
