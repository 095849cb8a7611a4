//! Hands records to the host: decided first, sent second, counted when there was no room.

use core::{arch::asm, ffi::c_void, ptr};

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_map_lookup_elem, bpf_ringbuf_output},
};
use aya_log_ebpf::warn;
use govsandbox_ebpf::abi::{
    event::{EventRecord, RecordKind, RecordOutcome, TEXT_BYTES_MAX},
    rule::{LOST_REFUSALS, LossKey, Lost},
};

use super::{
    maps::{self, Scratch},
    pressure,
    subject::Subject,
};

/// Sends a record without texts.
///
/// # Safety
/// `record` is on the program's stack, begun by [`super::subject::Subject::begin`].
#[inline(always)]
pub unsafe fn bare<C: EbpfContext>(ctx: &C, subject: &Subject, record: *mut EventRecord) {
    // SAFETY: the caller vouches for `record`; the size is its type's.
    unsafe { send(ctx, subject, record, size_of::<EventRecord>() as u64) };
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
        send(ctx, subject, record, size_of::<EventRecord>() as u64 + text);
    }
}

/// The same for what others cause, on whose time it is: nobody waits for room.
///
/// # Safety
/// As [`bare`].
#[inline(always)]
pub unsafe fn unhurried<C: EbpfContext>(ctx: &C, subject: &Subject, record: *mut EventRecord) {
    // SAFETY: as in `send`.
    unsafe {
        let ring = ring_of(&maps::DENIALS, &subject.config.slot);
        if !ring.is_null() && bpf_ringbuf_output(ring, record.cast(), size_of::<EventRecord>() as u64, 0) == 0
        {
            return;
        }
        let kind = u32::from((*record).kind) | LOST_REFUSALS;
        count(record, kind);
        warn!(ctx, "no room for a record of kind {} of sandbox {}", kind, (*record).sandbox_id);
    }
}

#[inline(always)]
unsafe fn send<C: EbpfContext>(ctx: &C, subject: &Subject, record: *mut EventRecord, size_bytes: u64) {
    // SAFETY: the callers vouch for `record`; an inner map that a look-up found stays while the program runs.
    unsafe {
        let mut kind = u32::from((*record).kind);
        if (*record).outcome == RecordOutcome::Allowed as u8 {
            let ring = ring_of(&maps::EVENTS, &subject.config.slot);
            if !ring.is_null()
                && (is_of_process(record) || !pressure::is_nearly_full(ring))
                && bpf_ringbuf_output(ring, record.cast(), size_bytes, 0) == 0
            {
                return;
            }
        } else {
            let ring = ring_of(&maps::DENIALS, &subject.config.slot);
            if !ring.is_null() {
                if bpf_ringbuf_output(ring, record.cast(), size_bytes, 0) == 0 {
                    pressure::after_refusal(ring, subject.mark);
                    return;
                }
                pressure::until_there_is_room();
                if bpf_ringbuf_output(ring, record.cast(), size_bytes, 0) == 0 {
                    return;
                }
            }
            kind |= LOST_REFUSALS;
        }
        count(record, kind);
        warn!(ctx, "no room for a record of kind {} of sandbox {}", kind, (*record).sandbox_id);
    }
}

/// Does it say who a process is? What others do can't be told of without it: a part of the buffer is for these alone.
#[inline(always)]
unsafe fn is_of_process(record: *const EventRecord) -> bool {
    // SAFETY: the caller vouches for `record`.
    let kind = unsafe { (*record).kind };
    kind == RecordKind::Fork as u8 || kind == RecordKind::Exec as u8 || kind == RecordKind::Exit as u8
}

/// Counts a record that found no room, and keeps what it was about.
#[inline(always)]
unsafe fn count(record: *const EventRecord, kind: u32) {
    // SAFETY: the caller vouches for `record`; the entry stays while the sandbox lives; the count is atomic, which record
    // was the first and the last is best effort.
    unsafe {
        let key = LossKey { sandbox_id: (*record).sandbox_id, kind };
        let Some(loss) = maps::LOSSES.get_ptr_mut(&key) else { return };
        if (*loss).count == 0 {
            describe(&raw mut (*loss).first, record);
        }
        describe(&raw mut (*loss).last, record);
        increment(&raw mut (*loss).count);
    }
}

#[inline(always)]
unsafe fn describe(lost: *mut Lost, record: *const EventRecord) {
    // SAFETY: the caller vouches for both.
    unsafe {
        (*lost).time_boot_ns = (*record).time_boot_ns;
        (*lost).dev = (*record).dev;
        (*lost).ino = (*record).ino;
        (*lost).tgid = (*record).tgid;
        (*lost).rule = (*record).rule;
        (*lost).action = (*record).action;
    }
}

#[inline(always)]
unsafe fn increment(count: *mut u64) {
    // SAFETY: the caller vouches for `count`.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) count, in(reg) 1u64) };
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
    // SAFETY: as in `count`.
    unsafe {
        if (*loss).count == 0 {
            (*loss).first.time_boot_ns = time_boot_ns;
        }
        (*loss).last.time_boot_ns = time_boot_ns;
        increment(&raw mut (*loss).count);
    }
}
