//! Sockets that were made outside and handed in over a unix socket: they may be connected already, and no connect of theirs
//! was judged.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_send_signal, bpf_sock_from_file},
    macros::{btf_tracepoint, lsm},
    programs::{BtfTracePointContext, LsmContext},
};
use govsandbox_ebpf::{
    abi::{
        event::{EventRecord, RecordKind},
        privilege::Hook,
    },
    decide::{Decision, egress::Way, privilege::may_create_socket},
};

use super::{
    EPERM, SIGKILL, answer, conclude,
    connect::{AF_INET6, judge},
    privilege,
    unix::AF_UNIX,
};
use crate::kernel::{
    emit,
    lead::{AF_INET, IPPROTO_TCP},
    maps,
    offsets::{self, probed, typed},
    socket::{ADOPTED, DEAD, SocketTag, mapped, octets},
    subject::{self, Subject},
};

/// `TCP_CLOSE`, include/net/tcp_states.h: connected to nobody.
const CLOSE: u8 = 7;

/// `file_receive(struct file *file)`: one that is connected is received where its far end is allowed; what listens, and
/// what the sandbox could not have made, is not. Datagrams are judged as packets, and a connect is when it is asked for.
#[lsm(hook = "file_receive")]
pub fn socket_receive(ctx: LsmContext) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    // SAFETY: the hook's argument is a file, and the kernel holds what it leads to while the hook runs.
    unsafe {
        let holder = bpf_sock_from_file(ctx.arg(0));
        if holder.is_null() {
            return 0;
        }
        let socket: *mut c_void = typed(holder.cast_const().cast(), &offsets::SOCKET_SK);
        if socket.is_null() {
            return 0;
        }
        let tag = maps::SOCKETS.get(socket);
        if !tag.is_null() && (*tag).sandbox_id == subject.sandbox_id {
            return 0;
        }
        let family: u16 = probed(socket as u64, &offsets::SOCK_SKC_FAMILY);
        let kind: u16 = probed(socket as u64, &offsets::SOCK_SK_TYPE);
        let protocol: u16 = probed(socket as u64, &offsets::SOCK_SK_PROTOCOL);
        let (family, kind, number) = (i32::from(family), i32::from(kind), i32::from(protocol));
        if subject.config.audit_mode == 0
            && !may_create_socket(family, kind, number, subject.config.icmp != 0)
        {
            let object = [family as u32, kind as u32, number as u32, 0];
            return privilege::refuse(&ctx, &subject, Hook::SocketCreate, object);
        }
        let state: u8 = probed(socket as u64, &offsets::SOCK_SKC_STATE);
        if family == AF_UNIX || protocol != IPPROTO_TCP || state == CLOSE {
            return 0;
        }
        if used(&ctx, &subject, socket, tag) { answer(EPERM) } else { 0 }
    }
}

/// `tcp_sendmsg_locked(const struct sock *sk, const struct msghdr *msg, const struct sk_buff *skb, int size_goal)`, since
/// Linux 6.16: before anything of what is sent waits in the socket.
#[btf_tracepoint(function = "tcp_sendmsg_locked")]
pub fn stream_send(ctx: BtfTracePointContext) -> i32 {
    if subject::is_outside() {
        return 0;
    }
    let Some(subject) = subject::current() else { return 0 };
    let socket: *mut c_void = ctx.arg(0);
    // SAFETY: an argument of a BTF tracepoint is trusted; a tag lives as long as its socket.
    unsafe {
        let known = maps::SOCKETS.get(socket);
        if !known.is_null() && ((*known).sandbox_id == subject.sandbox_id || (*known).flags & DEAD != 0) {
            return 0;
        }
        if used(&ctx, &subject, socket, known) {
            let tag = maps::SOCKETS.get_or_create(socket);
            if tag.is_null() {
                bpf_send_signal(SIGKILL); // what can't be stopped is not begun
                return 0;
            }
            (*tag).protocol = IPPROTO_TCP;
            (*tag).flags |= DEAD;
        }
    }
    0
}

/// Judges the far end of a connection that is not the sandbox's own, and tells. From then on it is, if nobody's: `known` is
/// its tag. Is it to be refused?
#[inline(always)]
unsafe fn used<C: EbpfContext>(
    ctx: &C,
    subject: &Subject,
    socket: *mut c_void,
    known: *mut SocketTag,
) -> bool {
    let mut record = MaybeUninit::<EventRecord>::uninit();
    let record = record.as_mut_ptr();
    // SAFETY: the callers vouch for socket and tag; the record is this program's own.
    unsafe {
        let at = socket as u64;
        let family: u16 = probed(at, &offsets::SOCK_SKC_FAMILY);
        let address = match family {
            AF_INET6 => probed(at, &offsets::SOCK_SKC_V6_DADDR),
            AF_INET => mapped(probed(at, &offsets::SOCK_SKC_DADDR)),
            _ => [0; 4],
        };
        subject.begin(record, RecordKind::Connect);
        (*record).address = octets(address);
        (*record).port = u16::from_be(probed(at, &offsets::SOCK_SKC_DPORT));
        (*record).family = family;
        (*record).protocol = IPPROTO_TCP;
        let (mut decision, way) = judge(subject, address, (*record).port, IPPROTO_TCP);
        if decision.allow && matches!(way, Way::Relay) {
            decision = Decision::DENY_DEFAULT; // it has not passed the relay
        }
        let refuse = conclude(subject, decision, false, record);
        if known.is_null() && !refuse {
            let tag = maps::SOCKETS.get_or_create(socket);
            if tag.is_null() {
                return true;
            }
            (*tag).sandbox_id = subject.sandbox_id;
            SocketTag::connect(tag, record, address, ADOPTED);
        }
        if known.is_null() || SocketTag::is_news(known, address, (*record).port) {
            emit::bare(ctx, subject, record);
        }
        refuse
    }
}
