//! Slows down who is refused faster than the host reads: denials are not what is dropped.
//!
//! Hooks on names run with locks of the file system held, for which processes outside may wait. So the pause is only noted
//! there, and made when the call ends.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_loop, bpf_ringbuf_query};
use govsandbox_ebpf::abi::rule::TaskMark;

/// `BPF_RB_AVAIL_DATA` and `BPF_RB_RING_SIZE` of include/uapi/linux/bpf.h.
const AVAIL_DATA: u64 = 0;
const RING_SIZE: u64 = 1;

/// Pauses after a refusal while the buffer is more than half full, more than three quarters full, and before the only
/// second try when it is full, in ns. A refused process pays; others pay nothing. No hook may sleep, so it spins.
const PAUSE_HALF_NS: u32 = 100_000;
const PAUSE_MOST_NS: u32 = 1_000_000;
const PAUSE_FULL_NS: u64 = 4_000_000;
/// Looks at the clock of one pause at most: some 30 ns each.
const LOOKS_MAX: u32 = 1 << 18;

/// Notes the pause that the buffer's filling asks for; who has no mark makes it at once.
///
/// # Safety
/// `ring` is a ring buffer, `mark` the current task's or null.
#[inline(always)]
pub unsafe fn after_refusal(ring: *mut c_void, mark: *mut TaskMark) {
    // SAFETY: the caller vouches for both.
    unsafe {
        let (used, size) = (bpf_ringbuf_query(ring, AVAIL_DATA), bpf_ringbuf_query(ring, RING_SIZE));
        if used <= size / 2 {
            return;
        }
        let pause_ns = if used > size / 4 * 3 { PAUSE_MOST_NS } else { PAUSE_HALF_NS };
        if mark.is_null() {
            pause(u64::from(pause_ns));
        } else {
            (*mark).pause_ns = pause_ns;
        }
    }
}

/// Is what is left of the buffer kept for what must not be lost?
///
/// # Safety
/// `ring` is a ring buffer.
#[inline(always)]
pub unsafe fn is_nearly_full(ring: *mut c_void) -> bool {
    // SAFETY: the caller vouches for `ring`.
    unsafe { bpf_ringbuf_query(ring, AVAIL_DATA) > bpf_ringbuf_query(ring, RING_SIZE) / 4 * 3 }
}

/// Makes the pause that was noted.
///
/// # Safety
/// `mark` is the current task's.
#[inline(always)]
pub unsafe fn settle(mark: *mut TaskMark) {
    // SAFETY: the caller vouches for `mark`.
    unsafe {
        if (*mark).pause_ns != 0 {
            pause(u64::from((*mark).pause_ns));
            (*mark).pause_ns = 0;
        }
    }
}

/// Gives a host that is running the time to make room.
#[inline(always)]
pub fn until_there_is_room() {
    pause(PAUSE_FULL_NS);
}

#[inline(always)]
fn pause(duration_ns: u64) {
    // SAFETY: the callback's type is what the helper calls; it only reads the number, which outlives the loop.
    unsafe {
        let mut deadline_ns = bpf_ktime_get_ns() + duration_ns;
        bpf_loop(LOOKS_MAX, look as *mut c_void, (&raw mut deadline_ns).cast(), 0);
    }
}

/// Ends the loop at the deadline.
unsafe extern "C" fn look(_index: u64, deadline_ns: *const u64) -> i64 {
    // SAFETY: the context is the number that `pause` hands over.
    unsafe { i64::from(bpf_ktime_get_ns() >= *deadline_ns) }
}
