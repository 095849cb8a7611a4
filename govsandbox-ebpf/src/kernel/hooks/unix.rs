//! Unix sockets: those that the sandbox made talk to each other; others are reached where `network.unix` names them.

use aya_ebpf::{EbpfContext, macros::lsm, programs::LsmContext};
use govsandbox_ebpf::{
    abi::event::{FLAG_PATH_CUT, RecordKind},
    decide::egress::Words,
};

use super::{ENOMEM, EPERM, answer, conclude, settle};
use crate::kernel::{
    emit, maps, object,
    offsets::{self, typed},
    socket::SocketTag,
    subject::{self, Subject},
    unix,
};

pub(super) const AF_UNIX: i32 = 1;

/// `socket_post_create(struct socket *sock, int family, int type, int protocol, int kern)`: a pair of sockets comes here
/// twice, an accepted one never; whoever sends to that has a connection that was judged.
#[lsm(hook = "socket_post_create")]
pub fn socket_post_create(ctx: LsmContext) -> i32 {
    let (family, kernel): (i32, i32) = (ctx.arg(1), ctx.arg(4));
    if family != AF_UNIX || kernel != 0 {
        return 0;
    }
    let Some(subject) = subject::current() else { return 0 };
    // SAFETY: the hook's argument is a socket that the kernel holds while the hook runs; its tag lives as long.
    unsafe {
        let socket: *mut u8 = typed(ctx.arg(0), &offsets::SOCKET_SK);
        if socket.is_null() {
            return 0;
        }
        let tag = maps::SOCKETS.get_or_create(socket);
        if tag.is_null() {
            return answer(ENOMEM);
        }
        (*tag).sandbox_id = subject.sandbox_id;
    }
    0
}

/// `unix_stream_connect(struct sock *sock, struct sock *other, struct sock *newsk)`, of `SOCK_SEQPACKET` too.
#[lsm(hook = "unix_stream_connect")]
pub fn unix_stream_connect(ctx: LsmContext) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    // SAFETY: the hook's arguments are sockets that the kernel holds while the hook runs.
    unsafe { judge(&ctx, &subject, ctx.arg(1), None) }
}

/// `unix_may_send(struct socket *sock, struct socket *other)`: of datagrams, when one is connected and at each that is sent.
#[lsm(hook = "unix_may_send")]
pub fn unix_may_send(ctx: LsmContext) -> i32 {
    let Some(subject) = subject::current() else { return 0 };
    // SAFETY: as in `unix_stream_connect`.
    unsafe {
        let from: *mut u8 = typed(ctx.arg(0), &offsets::SOCKET_SK);
        let to: *mut u8 = typed(ctx.arg(1), &offsets::SOCKET_SK);
        judge(&ctx, &subject, to, Some(from))
    }
}

/// Decides on a peer and reports. `from`: whose datagram it is; an allowed one is told once in a row.
#[inline(always)]
unsafe fn judge<C: EbpfContext>(ctx: &C, subject: &Subject, to: *mut u8, from: Option<*mut u8>) -> i32 {
    if subject.config.path_hooks == 0 {
        return 0; // others hold it
    }
    if subject.config.orphaned != 0 || to.is_null() {
        return answer(EPERM);
    }
    // SAFETY: the callers vouch for the sockets; the scratch is this task's.
    unsafe {
        let tag = maps::SOCKETS.get(to);
        if !tag.is_null() && (*tag).sandbox_id == subject.sandbox_id {
            return 0;
        }
        let kind = if from.is_some() { RecordKind::Send } else { RecordKind::Connect };
        let scratch = subject.scratch();
        if scratch.is_null() {
            emit::count_loss(subject.sandbox_id, kind as u32, 0);
            return answer(ENOMEM);
        }
        let (decision, name) = unix::decide(subject, scratch, to);
        let (decision, _) = settle(scratch, decision, false);
        let record = &raw mut (*scratch).record;
        subject.begin(record, kind);
        (*record).family = AF_UNIX as u16;
        (*record).protocol = typed(to.cast_const(), &offsets::SOCK_SK_TYPE);
        (*record).path_len = name.length;
        if name.inode != 0 {
            object::identify(record, name.inode);
        }
        if !name.whole {
            (*record).flags |= FLAG_PATH_CUT;
        }
        let refuse = conclude(subject, decision, false, record);
        if !decision.allow || is_news(from, name.bound) {
            emit::with_text(ctx, subject, scratch);
        }
        if refuse { answer(EPERM) } else { 0 }
    }
}

/// Is it another peer than the one that was last told of this socket?
#[inline(always)]
unsafe fn is_news(from: Option<*mut u8>, bound: u64) -> bool {
    let Some(from) = from else { return true };
    if from.is_null() {
        return true;
    }
    // SAFETY: the caller vouches for the sockets.
    unsafe {
        let tag = maps::SOCKETS.get_or_create(from);
        if tag.is_null() {
            return true;
        }
        let peer: Words = [bound as u32, (bound >> 32) as u32, 0, 0];
        SocketTag::is_news(tag, peer, 1)
    }
}
