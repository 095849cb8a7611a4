//! Datagrams to unix sockets that a program at the cgroup or Landlock refused: seen when the system call ends.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_probe_read_user, generated::bpf_probe_read_user_str},
};
use govsandbox_ebpf::abi::{
    event::{RecordKind, RecordOutcome},
    unix::NAME_BYTES_MAX,
};

use super::unix::AF_UNIX;
use crate::kernel::{emit, subject::Subject, walk::text_at};

const SOCK_DGRAM: u16 = 2;
/// EPERM, as both answer.
pub(super) const REFUSED: i64 = -1;

/// Tells of a datagram whose address, in the caller's memory, is one of a unix socket; the path is the caller's own.
#[inline(always)]
pub(super) unsafe fn refused<C: EbpfContext>(ctx: &C, subject: &Subject, address: u64) {
    // SAFETY: the helpers check the caller's addresses; the scratch is this task's, and has room for a name.
    unsafe {
        let family = bpf_probe_read_user(address as *const u16).unwrap_or(0);
        if i32::from(family) != AF_UNIX {
            return;
        }
        let scratch = subject.scratch();
        if scratch.is_null() {
            emit::count_loss(subject.sandbox_id, RecordKind::Send as u32, 0);
            return;
        }
        let record = &raw mut (*scratch).record;
        subject.begin(record, RecordKind::Send);
        let first = bpf_probe_read_user((address + 2) as *const u8).unwrap_or(0);
        // An abstract name is told with its NUL.
        let skip = u32::from(first == 0);
        *text_at(scratch, 0) = 0;
        let from = (address + 2 + u64::from(skip)) as *const _;
        let room = NAME_BYTES_MAX as u32 + 1;
        let read = bpf_probe_read_user_str(text_at(scratch, skip).cast(), room, from);
        let length = if read > 0 { (read as u32 - 1) & 0x7f } else { 0 };
        (*record).path_len = length + skip;
        (*record).family = family;
        (*record).protocol = SOCK_DGRAM;
        (*record).errno = (-REFUSED) as u32;
        (*record).outcome = RecordOutcome::Denied as u8;
        emit::with_text(ctx, subject, scratch);
    }
}
