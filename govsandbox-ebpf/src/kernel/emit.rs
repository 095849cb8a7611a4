//! Hands records to the host: decided first, sent second, counted when there was no room.

use core::{arch::asm, ffi::c_void, ptr};

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_map_lookup_elem, bpf_ringbuf_output},
};
use aya_log_ebpf::warn;
use govsandbox_ebpf::abi::{
    event::{EventRecord, RecordOutcome, TEXT_BYTES_MAX},
    rule::LossKey,
};

use super::{
    maps::{self, Scratch},
    subject::Subject,
};

/// Sends a record without texts.
///
/// # Safety
/// `record` is on the program's stack, begun by [`super::subject::Subject::begin`].
#[inline(always)]
pub unsafe fn bare<C: EbpfContext>(ctx: &C, subject: &Subject, record: *mut EventRecord) {
    // SAFETY: the caller vouches for `record`; the size is its type's.
    unsafe { send(ctx, subject.config.slot, record, size_of::<EventRecord>() as u64) };
}

/// Sends the scratch's record with as much of its text as the lengths say.
///
/// # Safety
/// `scratch` is the current task's, its record begun.
#[inline(always)]
pub unsafe fn with_text<C: EbpfContext>(ctx: &C, subject: &Subject, scratch: *mut Scratch) {
    // SAFETY: the caller vouches for `scratch`; the text follows the record, and its length is bounded here.
    unsafe {
        let record = &raw mut (*scratch).record;
        let mut text =
            u64::from((*record).path_len) + u64::from((*record).second_len) + u64::from((*record).argv_len);
        if text > TEXT_BYTES_MAX as u64 {
            text = TEXT_BYTES_MAX as u64;
        }
        send(ctx, subject.config.slot, record, size_of::<EventRecord>() as u64 + text);
    }
}

#[inline(always)]
unsafe fn send<C: EbpfContext>(ctx: &C, slot: u32, record: *mut EventRecord, size_bytes: u64) {
    // SAFETY: the callers vouch for `record`; an inner map that a look-up found stays while the program runs.
    unsafe {
        let sandbox_id = (*record).sandbox_id;
        let ring = if (*record).outcome == RecordOutcome::Allowed as u8 {
            ring_of(&maps::EVENTS, &slot)
        } else {
            ring_of(&maps::DENIALS, &slot)
        };
        if !ring.is_null() && bpf_ringbuf_output(ring, record.cast(), size_bytes, 0) == 0 {
            return;
        }
        let kind = u32::from((*record).kind);
        count_loss(sandbox_id, kind, (*record).time_boot_ns);
        warn!(ctx, "no room for a record of kind {} of sandbox {}", kind, sandbox_id);
    }
}

#[inline(always)]
unsafe fn ring_of<M>(outer: &M, slot: &u32) -> *mut c_void {
    // SAFETY: `outer` is a map of maps with a `u32` key.
    unsafe { bpf_map_lookup_elem(ptr::from_ref(outer).cast_mut().cast(), ptr::from_ref(slot).cast()) }
}

/// Counts a record that never came to be.
#[inline(always)]
pub fn count_loss(sandbox_id: u32, kind: u32, time_boot_ns: u64) {
    let Some(loss) = maps::LOSSES.get_ptr_mut(&LossKey { sandbox_id, kind }) else { return };
    // SAFETY: the entry stays while the sandbox lives; the count is atomic, the times are best effort.
    unsafe {
        asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) &raw mut (*loss).count, in(reg) 1u64);
        if (*loss).first_boot_ns == 0 {
            (*loss).first_boot_ns = time_boot_ns;
        }
        (*loss).last_boot_ns = time_boot_ns;
    }
}
