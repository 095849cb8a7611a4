//! Connections of TCP over their time: where they came from, and what went through them when they end.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext, helpers::generated::bpf_ktime_get_boot_ns, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use govsandbox_ebpf::abi::event::{EventRecord, RecordAction, RecordKind, RecordOutcome};

use super::connect::AF_INET6;
use crate::kernel::{
    emit,
    lead::IPPROTO_TCP,
    maps,
    offsets::{self, probed},
    socket::{ACCEPTED, ASKS, CLOSED, SocketTag, mapped, octets},
    subject::Subject,
};

/// `TCP_*`, include/net/tcp_states.h.
const ESTABLISHED: i32 = 1;
const SYN_SENT: i32 = 2;
const SYN_RECEIVED: i32 = 3;
const FIN_WAIT1: i32 = 4;
const CLOSE: i32 = 7;
const LAST_ACK: i32 = 9;
const LISTEN: i32 = 10;
/// `SHUTDOWN_MASK`, include/net/sock.h: both ways.
const BOTH_WAYS: u8 = 3;
/// `SOCK_DONE` in `sk_flags`, include/net/sock.h: the far end has sent its last byte.
const DONE: u64 = 1 << 1;

/// `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`.
///
/// A connection has ended when it is closed, or when its last descriptor is: what is still to be sent counts then.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn connection_state(ctx: BtfTracePointContext) -> i32 {
    let socket: *mut c_void = ctx.arg(0);
    // SAFETY: an argument of a BTF tracepoint is trusted.
    let tag = unsafe { maps::SOCKETS.get(socket) };
    if tag.is_null() {
        return 0;
    }
    let (before, now): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let socket = socket as u64;
    // SAFETY: the tag is the socket's, and lives as long.
    unsafe {
        match (before, now) {
            // A connection that came in has what its listener has, until here.
            (LISTEN, SYN_RECEIVED) => (*tag).flags = ACCEPTED,
            (SYN_RECEIVED, ESTABLISHED) if (*tag).flags & ACCEPTED != 0 => accepted(&ctx, tag, socket),
            (_, LISTEN) => listened(&ctx, tag, socket),
            (LISTEN | SYN_SENT | SYN_RECEIVED, _) => {}
            (_, CLOSE) => closed(&ctx, tag, socket),
            (_, FIN_WAIT1 | LAST_ACK) if probed::<u8>(socket, &offsets::SOCK_SK_SHUTDOWN) == BOTH_WAYS => {
                closed(&ctx, tag, socket);
            }
            _ => {}
        }
    }
    0
}

/// Whoever calls listen(2) is the current task.
#[inline(always)]
unsafe fn listened<C: EbpfContext>(ctx: &C, tag: *mut SocketTag, socket: u64) {
    let mut record = MaybeUninit::<EventRecord>::uninit();
    let record = record.as_mut_ptr();
    // SAFETY: the caller vouches for both; the record is this program's own.
    unsafe {
        let subject = Subject::here((*tag).sandbox_id);
        subject.begin(record, RecordKind::Listen);
        SocketTag::used(tag, record);
        let family: u16 = probed(socket, &offsets::SOCK_SKC_FAMILY);
        (*record).family = family;
        (*record).protocol = IPPROTO_TCP;
        (*record).port = probed(socket, &offsets::SOCK_SKC_NUM);
        (*record).address = octets(match family {
            AF_INET6 => probed(socket, &offsets::SOCK_SKC_V6_RCV_SADDR),
            _ => mapped(probed(socket, &offsets::SOCK_SKC_RCV_SADDR)),
        });
        (*record).outcome = RecordOutcome::Allowed as u8;
        emit::bare(ctx, &subject, record);
    }
}

#[inline(always)]
unsafe fn accepted<C: EbpfContext>(ctx: &C, tag: *mut SocketTag, socket: u64) {
    // SAFETY: the caller vouches for both.
    unsafe {
        let family: u16 = probed(socket, &offsets::SOCK_SKC_FAMILY);
        (*tag).family = family;
        (*tag).protocol = IPPROTO_TCP;
        (*tag).port = u16::from_be(probed(socket, &offsets::SOCK_SKC_DPORT));
        (*tag).address = match family {
            AF_INET6 => probed(socket, &offsets::SOCK_SKC_V6_DADDR),
            _ => mapped(probed(socket, &offsets::SOCK_SKC_DADDR)),
        };
        (*tag).rule = 0;
        (*tag).time_boot_ns = bpf_ktime_get_boot_ns();
        let Some(subject) = of(tag) else { return };
        let mut record = MaybeUninit::<EventRecord>::uninit();
        let record = record.as_mut_ptr();
        SocketTag::begin(tag, record, RecordKind::Listen);
        (*record).action = RecordAction::Accept as u8;
        (*record).outcome = RecordOutcome::Allowed as u8;
        emit::bare(ctx, &subject, record);
    }
}

#[inline(always)]
unsafe fn closed<C: EbpfContext>(ctx: &C, tag: *mut SocketTag, socket: u64) {
    // SAFETY: the caller vouches for both.
    unsafe {
        if (*tag).time_boot_ns == 0 || (*tag).flags & (CLOSED | ASKS) != 0 {
            return;
        }
        (*tag).flags |= CLOSED;
        let Some(subject) = of(tag) else { return };
        let mut record = MaybeUninit::<EventRecord>::uninit();
        let record = record.as_mut_ptr();
        SocketTag::begin(tag, record, RecordKind::Close);
        (*record).value = (*record).time_boot_ns - (*tag).time_boot_ns;
        let sent: u64 = probed(socket, &offsets::TCP_BYTES_SENT);
        let again: u64 = probed(socket, &offsets::TCP_BYTES_RETRANS);
        let (written, next): (u32, u32) =
            (probed(socket, &offsets::TCP_WRITE_SEQ), probed(socket, &offsets::TCP_SND_NXT));
        // Of a connection that was cut off what is in the queue is never sent.
        let queued = match probed::<u8>(socket, &offsets::SOCK_SKC_STATE) as i32 {
            FIN_WAIT1 | LAST_ACK => written.wrapping_sub(next),
            _ => 0,
        };
        (*record).dev = sent - again + u64::from(queued);
        // The last byte's successor counts as one (`tcp_fin`, net/ipv4/tcp_input.c).
        let flags: u64 = probed(socket, &offsets::SOCK_SK_FLAGS);
        let received: u64 = probed(socket, &offsets::TCP_BYTES_RECEIVED);
        (*record).ino = if flags & DONE != 0 && received > 0 { received - 1 } else { received };
        (*record).outcome = RecordOutcome::Allowed as u8;
        emit::bare(ctx, &subject, record);
    }
}

/// Whose socket it is, whoever the current task is; `None`: the sandbox is gone.
#[inline(always)]
unsafe fn of(tag: *const SocketTag) -> Option<Subject> {
    // SAFETY: the caller vouches for the tag.
    let subject = unsafe { Subject::absent((*tag).sandbox_id) };
    (subject.config.orphaned == 0).then_some(subject)
}
